"""The data layer: records, formats, protocols, augmentation, data sets."""
