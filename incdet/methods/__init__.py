"""The methods: ways to learn a step, each a value made of parts."""
