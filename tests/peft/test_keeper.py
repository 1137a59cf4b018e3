"""Factors that are kept where no gradient is asked for: used again, and never stale."""

import copy
import pickle

import pytest
import torch
from peft import get_peft_model
from torch import nn

from tests.peft.tiny import bert, shake, tokens
from ttlib_peft import LorettaAdpConfig, LorettaRepConfig, TTLinear
from ttlib_peft.assembly import Contracted
from ttlib_peft.snapshot import Snapshot

METHODS = {"rep": LorettaRepConfig, "adp": LorettaAdpConfig}
SCHEMES = ["residual", "zero", "gaussian", "paper-mean"]


@pytest.fixture
def contractions(monkeypatch):
    made = []
    init = Contracted.__init__

    def counting(self, *arguments):
        made.append(1)
        init(self, *arguments)

    monkeypatch.setattr(Contracted, "__init__", counting)
    return made


def layer(started=True):
    torch.manual_seed(0)
    train = TTLinear(12, 10, tensor_rank=3, dtype=torch.float64).eval()
    if started:
        train.keep_start()
        train.flat.data += 0.1
    return train


def expected(train, x):
    """What the layer says where nothing can be kept."""
    return x @ train.to_dense() + train.bias


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("scheme", SCHEMES)
def test_in_evaluation_factors_are_contracted_once(method, scheme, contractions):
    model = shake(get_peft_model(bert(), METHODS[method](task_type="SEQ_CLS", init_weights=scheme))).eval()
    with torch.no_grad():
        first = model(tokens()).logits
        made = len(contractions)
        assert made > 0
        assert torch.equal(model(tokens()).logits, first)
    assert len(contractions) == made


def _optimise(train):
    train.flat.grad = torch.ones_like(train.flat)
    torch.optim.SGD([train.flat], lr=0.1).step()


WRITES = {
    "in place": lambda train: train.flat.mul_(2),
    "data": lambda train: train.flat.data.mul_(2),
    "data copy": lambda train: train.flat.data.copy_(train.flat * 2),
    "data assigned": lambda train: setattr(train.flat, "data", train.flat * 2),
    "one number": lambda train: train.flat.data[3].add_(1e-9),
    "numpy": lambda train: train.flat.detach().numpy().__imul__(2),
    "replaced": lambda train: setattr(train, "flat", nn.Parameter(train.flat * 2)),
    "loaded": lambda train: train.load_state_dict({k: 2 * v for k, v in train.state_dict().items()}),
    "assigned": lambda train: train.load_state_dict({k: 2 * v for k, v in train.state_dict().items()}, assign=True),
    "start": lambda train: train.initial.data.mul_(2),
    "start replaced": lambda train: setattr(train, "initial", 2 * train.initial),
    "start dropped": lambda train: setattr(train, "initial", None),
    "offset": lambda train: (setattr(train, "initial", None), setattr(train, "offset", torch.tensor(0.5))),
    "optimiser": _optimise,
    "scaled": lambda train: train.scale_last_core(3.0),
    "drawn anew": lambda train: train.reset_parameters(std=1.0),
    "swapped": lambda train: train.flat.set_(2 * train.flat.detach()),
}


@pytest.mark.parametrize("write", WRITES)
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_no_write_leaves_a_stale_result(write, mode):
    train, x = layer(), torch.randn(3, 12, dtype=torch.float64)
    with mode():
        before = train(x)
        torch.testing.assert_close(before, expected(train, x))
    with torch.no_grad():
        WRITES[write](train)
    with mode():
        after = train(x)
        torch.testing.assert_close(after, expected(train, x), rtol=1e-13, atol=1e-13)
    assert not torch.equal(before, after)


def test_another_dtype():
    train, x = layer(), torch.randn(3, 12, dtype=torch.float64)
    with torch.no_grad():
        train(x)
        train.float()
        assert train(x.float()).dtype == torch.float32
        train.double()
        torch.testing.assert_close(train(x), expected(train, x))


@pytest.mark.parametrize("started", [False, True])
def test_evaluation_with_gradients_has_gradients(started):
    train, x = layer(started), torch.randn(3, 12, dtype=torch.float64)
    with torch.no_grad():
        train(x)
    train(x).sum().backward()
    assert train.flat.grad.any()
    train.requires_grad_(False)
    x.requires_grad_()
    train(x).sum().backward()
    torch.testing.assert_close(x.grad, train.to_dense().sum(dim=1).expand(3, 12))


def test_kept_in_inference_mode_and_used_with_gradients():
    train, x = layer().requires_grad_(False), torch.randn(3, 12, dtype=torch.float64)
    with torch.inference_mode():
        train(x)
    x.requires_grad_()
    train(x).sum().backward()
    assert x.grad.any()


def test_made_in_inference_mode():
    with torch.inference_mode():
        train = layer()
        x = torch.randn(3, 12, dtype=torch.float64)
        first = train(x)
        train.flat.mul_(2)
        assert not torch.equal(train(x), first)
        torch.testing.assert_close(train(x), expected(train, x))


def test_in_training_nothing_is_kept(contractions):
    train, x = layer().train(), torch.randn(3, 12, dtype=torch.float64)
    with torch.no_grad():
        train(x)
        made = len(contractions)
        train(x)
    assert len(contractions) == made + 1
    assert train.keeper._kept is None


def test_copies_and_files_hold_nothing_that_was_kept():
    train, x = layer(), torch.randn(3, 12, dtype=torch.float64)
    size, keys = len(pickle.dumps(train)), set(train.state_dict())
    with torch.no_grad():
        train(x)
    assert len(pickle.dumps(train)) == size
    assert set(train.state_dict()) == keys == {"flat", "bias", "initial"}
    other = copy.deepcopy(train)
    assert other.keeper._kept is None
    with torch.no_grad():
        other.flat.mul_(2)
        torch.testing.assert_close(other(x), expected(other, x))
        torch.testing.assert_close(train(x), expected(train, x))


def test_compiled_evaluation_sees_every_change():
    train, x = layer(), torch.randn(3, 12, dtype=torch.float64)
    compiled = torch.compile(train, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        for _ in range(2):
            torch.testing.assert_close(compiled(x), expected(train, x))
            train.flat.data.mul_(2)


def test_compiled_training_is_one_graph_with_the_same_gradients():
    grads = []
    for compiled in (False, True):
        torch.manual_seed(0)
        model = shake(get_peft_model(nn.Sequential(nn.Linear(12, 12)), LorettaRepConfig(seed=0, target_modules="0")))
        run = torch.compile(model, fullgraph=True, backend="aot_eager") if compiled else model
        run(torch.ones(3, 12)).square().sum().backward()
        grads.append([p.grad for p in model.parameters() if p.grad is not None])
    assert len(grads[0]) == 2
    torch.testing.assert_close(grads[1], grads[0])


def test_snapshots_elsewhere_go_by_address_and_version():
    """Where comparing numbers would wait for a device; the meta device stands for it here."""
    flat = torch.ones(4, device="meta")
    snapshot = Snapshot([flat])
    assert snapshot.holds([flat])
    flat.add_(1)
    assert not snapshot.holds([flat])
    assert not Snapshot([flat]).holds([torch.ones(4)])
    assert not Snapshot([torch.ones(4)]).holds([flat])
    with torch.inference_mode():
        unversioned = torch.ones(4, device="meta")
    assert not Snapshot([unversioned]).holds([unversioned])
