#!/usr/bin/env bash
# torch 2.13.0: persistent_workers changes the order of a seeded DataLoader, from the second epoch on
#
# Expected: persistent_workers=True only spares starting processes. With shuffle=True and a seeded generator every
#     epoch has the order that it has without.
# Seen: epoch 1 is the same; epochs 2 and 3 have other orders. num_workers=0 has the orders of workers that do not
#     persist. So a switch for speed makes another run of the same seed.
# Where: torch/utils/data/dataloader.py: making an iterator draws a base seed for the workers from the loader's
#     generator (`_BaseDataLoaderIter.__init__`); a persistent iterator is made once and `_reset` draws none, so
#     that the sampler, which uses the same generator, finds it elsewhere. The notes on workers' seeds do not say so.
# What to do: give the sampler a generator of its own, RandomSampler(data, generator=...), and the loader another.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install -q numpy==2.4.6 torch==2.13.0
cd "$folder"
env/bin/python - <<'EOF'
import torch
from torch.utils.data import DataLoader, RandomSampler, TensorDataset

data = TensorDataset(torch.arange(8))


def orders(own_sampler=False, **how):
    generator = torch.Generator().manual_seed(0)
    if own_sampler:
        how |= {"sampler": RandomSampler(data, generator=torch.Generator().manual_seed(1))}
    else:
        how |= {"shuffle": True}
    loader = DataLoader(data, batch_size=4, generator=generator, **how)
    return [torch.cat([batch for batch, in loader]).tolist() for _ in range(3)]


if __name__ == "__main__":
    plain, fresh = orders(), orders(num_workers=2)
    persistent = orders(num_workers=2, persistent_workers=True)
    print("no workers:", plain, "\nworkers:   ", fresh, "\npersistent:", persistent)
    assert plain == fresh and persistent[0] == fresh[0]
    assert persistent[1] != fresh[1] and persistent[2] != fresh[2]
    fresh = orders(own_sampler=True, num_workers=2)
    assert fresh == orders(own_sampler=True, num_workers=2, persistent_workers=True)
EOF
