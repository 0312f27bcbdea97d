#!/usr/bin/env bash
# zarr 3.1.6: rows cut off by resize come back when the array grows again
#
# Expected: an array of ten rows that is cut to five and grown to ten holds the fill value in the last five, as in
#     HDF5 (h5py 3.16.0).
# Seen: the old rows are back, if the cut went through a chunk. Cut at a chunk's border, the same array gives the
#     fill value, so the result depends on the chunks. A file of activations that is refilled after a shorter run
#     shows rows of the longer one.
# Where: stated in the notes of `Array.resize` ("boundary chunks will remain intact"), not in those of
#     `AsyncArray.resize` nor in the format's specification.
# What to do: overwrite the rows with the fill value before they are cut off (`z[5:] = z.fill_value`).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install -q numpy==2.4.6 zarr==3.1.6 h5py==3.16.0
cd "$folder"
env/bin/python - <<'EOF'
import h5py
import numpy as np
import zarr


def cut_and_grown(array, rows):
    array[:] = np.arange(1, 11)
    array.resize((rows,))
    array.resize((10,))
    return array[:].tolist()


def new():
    return zarr.create_array(store=zarr.storage.MemoryStore(), shape=(10,), chunks=(5,), dtype="i4", fill_value=0)


with h5py.File("a.h5", "w") as file:
    hdf5 = cut_and_grown(file.create_dataset("a", (10,), maxshape=(None,), chunks=(5,), dtype="i4"), 3)
inside, at_the_border = cut_and_grown(new(), 3), cut_and_grown(new(), 5)
print("zarr, cut inside a chunk:", inside, "at a border:", at_the_border, "HDF5, inside a chunk:", hdf5)
assert inside == [1, 2, 3, 4, 5, 0, 0, 0, 0, 0]
assert at_the_border == [1, 2, 3, 4, 5, 0, 0, 0, 0, 0]
assert hdf5 == [1, 2, 3, 0, 0, 0, 0, 0, 0, 0]
EOF
