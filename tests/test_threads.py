"""One trainer in several threads: what they see and leave is what one thread alone would."""
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from parts.training import threads as module_threads
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
    from parts.probing.sites import uncompiled

    def stance():
        return torch._dynamo.eval_frame._stance.stance

    before, first, second = stance(), uncompiled(), uncompiled()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert stance() == "force_eager"
    second.__exit__(None, None, None)
    assert stance() == before


@pytest.mark.parametrize("script", ["train_model", "train_model_lea", "module_analysis", "module_circuits"])
@pytest.mark.parametrize(("own", "expected"), [
    ({}, (str(module_threads.SPINS), None)), ({"GOMP_SPINCOUNT": "7"}, ("7", None)), ({"OMP_WAIT_POLICY": "ACTIVE"}, (None, "ACTIVE")),
])  # fmt: skip
def test_scripts_let_threads_wait_less_before_torch_is_loaded_unless_the_user_says_how(script, own, expected):
    """What torch's library of threads sees when it is loaded, by a torch of our own."""
    code = ("import os, sys\nclass Torch:\n def find_spec(self, name, *rest):\n"
            "  if name == 'torch': print(os.environ.get('GOMP_SPINCOUNT'), os.environ.get('OMP_WAIT_POLICY')); os._exit(0)\n"
            f"sys.meta_path.insert(0, Torch())\nimport {script}")
    environment = {name: value for name, value in os.environ.items() if name not in module_threads.CHOSEN_BY}
    run = subprocess.run([sys.executable, "-u", "-c", code], env=environment | own, capture_output=True, text=True)
    assert run.stdout.split() == [str(value) for value in expected], run.stderr


def test_the_benchmark_measures_what_the_scripts_set():
    root = os.path.dirname(module_threads.__file__)
    with open(os.path.join(root, "benchmarks", "bench_together.py"), encoding="utf-8") as file:
        assert f'"as the scripts set it": {{"GOMP_SPINCOUNT": "{module_threads.SPINS}"}}' in file.read()
