#!/bin/sh
# Optional: an environment for compare.py alone, never for Wingspan itself. Several GB: torchvision, which the peers import, has
# no CPU build on the package index, so torch comes as a CUDA build; it runs on a CPU all the same.
#
#     sh benchmarks/peers/install.sh [FOLDER]        FOLDER: benchmarks/peers/.peers when left out; PYTHON=python3.11 chooses
set -eu
here=$(cd "$(dirname "$0")" && pwd)
folder=${1:-$here/.peers}
"${PYTHON:-python3}" -m venv "$folder"
pip() { "$folder/bin/python" -m pip --disable-pip-version-check "$@"; }
pip install --quiet torch==2.12.1 torchvision==0.27.1 lightly==1.6.0 stable-pretraining==0.1.8 lightning==2.6.6 kornia==0.9.0 \
    lightning-fabric==2.6.6 'cattrs>=24.1' 'tyro>=0.9' 'safetensors>=0.4' 'jinja2>=3.1' 'setuptools>=77' wheel
# Without its needs, which are all above, so that it cannot bring another torch.
pip install --quiet --no-deps --no-build-isolation -e "$here/../.."
"$folder/bin/python" -c 'import kornia, lightly, stable_pretraining, torchvision, wingspan.loop'
