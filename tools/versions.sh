#!/bin/sh
# Run tests on the oldest and on the newest torch and torchvision, each in a fresh environment of its own.
#
#   tools/versions.sh oldest [PYTHON] [TESTS...]     torch 2.9.0, torchvision 0.24.0; python3.10 by default
#   tools/versions.sh newest [PYTHON] [TESTS...]     whatever pip finds; python3 by default
#
# Without TESTS the whole suite runs. The environment (7 GB with CUDA's libraries) is made in a temporary folder, and
# removed at the end. docs/reliability.md has the outcomes that were measured.
set -eu
cd "$(dirname "$0")/.."
kind=${1:?oldest or newest}
case $kind in
    oldest) packages="torch==2.9.0 torchvision==0.24.0" python=${2:-python3.10} ;;
    newest) packages="torch torchvision" python=${2:-python3} ;;
    *) echo "oldest or newest, not $kind" >&2; exit 2 ;;
esac
[ $# -ge 2 ] && shift
shift
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
"$python" -m venv "$place"
"$place/bin/pip" install --quiet $packages
"$place/bin/pip" install --quiet '.[test]'
"$place/bin/python" -c 'import platform, torch, torchvision
print(f"Python {platform.python_version()}, torch {torch.__version__}, torchvision {torchvision.__version__}")'
OMP_NUM_THREADS=1 PYTHONPATH=. "$place/bin/python" -m pytest -q -p no:cacheprovider "$@"
