"""Small trainers of every kind, which several test files share."""
import pytest
import torch

import module_train_probe_lea
from module_dataset import AbstractionDataset
from module_train_probe import TrainTransformer

SMALL_BOARDS = dict(board_dim=6, abs_n=3, abs_dim=2, abs_c=4, vocab_bck=2, vocab_token=4, comp_n=2, dataset_len=30, seed=0)
SMALL = dict(n_layer=1, n_embd=8, n_embd_pos=4, batch_size=8, epochs=2, seed=1, device="cpu")
KINDS = {
    "factor": (TrainTransformer, {}),
    "lea": (module_train_probe_lea.TrainTransformer, dict(vocab_speech_size=8, block_speech_size=3)),
    "lea vanilla": (module_train_probe_lea.TrainTransformer,
                    dict(vocab_speech_size=8, block_speech_size=3, transformer_type="vanilla", vq_type="vanilla")),
}


def boards(**more):
    return AbstractionDataset(**SMALL_BOARDS | more)


def make(kind="factor", dataset=None, **more):
    cls, own = KINDS[kind]
    return cls(boards() if dataset is None else dataset, **SMALL | own | more)




def draw_nothing(set_attribute=setattr) -> None:
    """Training draws no pictures from now on, which take longer than small runs."""
    for trainer_class, _ in KINDS.values():
        set_attribute(trainer_class, "_figures", lambda self, epoch: {})


both = pytest.mark.parametrize("kind", KINDS)


def weights(trainer):
    return {name: value.clone() for name, value in trainer.transformer.state_dict().items()}


def all_boards_of(trainer, epoch):
    """The boards (n, T) that an epoch trains on, nothing hidden."""
    return torch.cat([truth for _, truth in trainer.batches(epoch)])
