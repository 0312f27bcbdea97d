"""One trainer in several threads: what they see and leave is what one thread alone would."""
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from tests.trainers import both, make, weights


@both
def test_threads_that_share_a_trainer_see_what_one_would(kind):
    trainer = make(kind)
    drawn = [trainer.dataset.sample(n, "train") for n in (3, 5, 7, 9)]
    masks = [np.zeros_like(these.boards) for these in drawn]
    wanted = [trainer.forward_all_activations(these.boards, mask) for these, mask in zip(drawn, masks, strict=True)]
    trainer.transformer.train()

    def look(k):
        return trainer.forward_all_activations(drawn[k % 4].boards, masks[k % 4])

    with ThreadPoolExecutor(4) as pool:
        for k, found in enumerate(pool.map(look, range(32))):
            for one, other in zip(wanted[k % 4], found, strict=True):
                assert np.array_equal(one, other)
    assert all(module.training for module in trainer.transformer.modules())


@pytest.mark.parametrize("kind", ["factor", "lea"])
def test_who_looks_during_training_in_another_thread_changes_nothing(kind):
    plain, watched = (make(kind, epochs=6, resid_pdrop=0.3, epoch2test=100, runs="") for _ in range(2))
    plain.train()
    board = watched.dataset.sample(1, "train").boards
    training = threading.Thread(target=watched.train)
    training.start()
    while training.is_alive():
        watched.forward_all_activations(board, board * 0)
    training.join()
    for one, other in zip(weights(plain).values(), weights(watched).values(), strict=True):
        assert torch.equal(one, other)


def test_hooks_that_overlap_in_threads_leave_compiled_networks_compiled():
    from module_sites import uncompiled

    def stance():
        return torch._dynamo.eval_frame._stance.stance

    before, first, second = stance(), uncompiled(), uncompiled()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert stance() == "force_eager"
    second.__exit__(None, None, None)
    assert stance() == before
