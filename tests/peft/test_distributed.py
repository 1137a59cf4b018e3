import os
import socket

import pytest
import torch
from peft import get_peft_model
from torch import nn
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, FullyShardedDataParallel, fully_shard
from torch.distributed.tensor import Shard
from torch.nn.parallel import DistributedDataParallel
from transformers import BertConfig, BertForMaskedLM, Trainer, TrainingArguments

import ttlib_peft
from tests.peft import tiny
from tests.peft.ranks import Ranks
from tests.peft.spread import CONFIGS, batch, bert, llama, refusal, train, trained, whole, with_two_adapters
from ttlib_peft.distributed import ShardingError, ShardingGuard, assert_same_start, assert_sharded, shard

# A sum in another order, float64, through three steps of AdamW; the parameters move by about 0.03
EXACT = {"rtol": 0, "atol": 1e-8}


# how the model is built, how it is wrapped, how it is trained
SHARDED = {
    "plain": ({}, {}, {}),
    "ungrouped": ({"group_factors": False}, {}, {}),
    "zero start": ({"init_weights": "zero"}, {}, {}),
    "embedding": ({"target_modules": ["embed_tokens", "q_proj"]}, {}, {}),
    "every pass": ({}, {}, {"micro": 2}),
    "last pass": ({}, {}, {"micro": 2, "mode": "last pass"}),
    "last pass, kept whole": ({}, {}, {"micro": 3, "mode": "last pass, kept whole"}),
    "one backward": ({}, {"reshard_after_forward": False}, {"micro": 2, "mode": "one backward"}),
    "evaluation": ({}, {"reshard_after_forward": False}, {"mode": "evaluation"}),
    "checkpoint": ({"reentrant": False}, {}, {}),
    "reentrant checkpoint": ({"reentrant": True}, {}, {}),
    "offload": ({}, {"offload_policy": CPUOffloadPolicy(pin_memory=False)}, {}),
}
COPIED = {
    "plain": ({}, {}, {}),
    "static graph": ({}, {"static_graph": True}, {}),
    "last pass": ({}, {}, {"micro": 3, "mode": "last pass"}),
    "checkpoint": ({"reentrant": False}, {}, {}),
    "reentrant checkpoint": ({"reentrant": True}, {}, {}),
    "static graph, checkpoint": ({"reentrant": False}, {"static_graph": True}, {}),
    "no buffers": ({}, {"broadcast_buffers": False}, {}),
}
QUICK = ("plain", "last pass, kept whole", "evaluation", "offload")


def cases(table):
    return [
        pytest.param(method, case, id=f"{method}-{case}", marks=[] if case in QUICK else pytest.mark.slow)
        for method in CONFIGS
        for case in table
        if (method, case) != ("adp", "embedding")  # which adapts no embeddings
    ]


def _train_sharded(rank, method, case):
    build, wrap, how = SHARDED[case]
    model = shard(llama(method, **build), **wrap)
    assert_sharded(model)
    return train(model, rank, **how)


def _train_copied(rank, method, case):
    build, wrap, how = COPIED[case]
    return train(DistributedDataParallel(llama(method, **build), **wrap), rank, **how)


def check_as_one_process(ranks, function, table, method, case):
    build, _, how = table[case]
    model = llama(method, **build)
    start = whole(model)
    alone = train(model, **how)
    assert min((alone[name] - start[name]).abs().max() for name in alone) > 1e-3
    for result in ranks.run(function, method, case):
        torch.testing.assert_close(result, alone, **EXACT)


@pytest.mark.parametrize(("method", "case"), cases(SHARDED))
def test_sharded_trains_as_one_process(ranks, method, case):
    check_as_one_process(ranks, _train_sharded, SHARDED, method, case)


def _train_sharded_by_others(rank, method, case):
    build, wrap, how = SHARDED[case]
    model = llama(method, **build)
    for layer in model.base_model.model.model.layers:
        fully_shard(layer, **wrap)
    fully_shard(model, **wrap)
    ShardingGuard().on_train_begin(None, None, None, model=model)
    return train(model, rank, **how)


@pytest.mark.parametrize("case", ["last pass, kept whole", "evaluation"])
def test_guarded_training_of_a_model_that_others_sharded(ranks, case):
    check_as_one_process(ranks, _train_sharded_by_others, SHARDED, "rep", case)


@pytest.mark.parametrize(("method", "case"), cases(COPIED))
def test_distributed_data_parallel_trains_as_one_process(ranks, method, case):
    check_as_one_process(ranks, _train_copied, COPIED, method, case)


def _train_half_precision(rank, wrap):
    model = llama("rep", torch.bfloat16)
    assert {p.dtype for p in trained(model).values()} == {torch.float32}
    return train(wrap(model), rank, sgd=True)


def test_bfloat16_base_with_float32_adapters(ranks):
    # the same numbers a rank as in DistributedDataParallel, where nothing is sharded
    sharded, _ = ranks.run(_train_half_precision, shard)
    copied, _ = ranks.run(_train_half_precision, DistributedDataParallel)
    torch.testing.assert_close(sharded, copied, rtol=0, atol=1e-6)


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(16, 16, dtype=torch.float64)

    def forward(self, x):
        return torch.tanh(self.linear(x))


class Tower(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(4)
        self.layers = nn.ModuleList(Block() for _ in range(4))

    def forward(self, x, used):
        for i in used:
            x = self.layers[i](x)
        return x


def tower():
    return get_peft_model(Tower(), CONFIGS["adp"](target_modules=["linear"]))


USED = [[(0, 1), (0, 2)], [(0, 1, 2), (0,)], [(0, 2), (0, 1, 2)], [(0, 1, 2), (0, 1, 2)]]  # by step and rank; never 3


def x_of(step, rank):
    return torch.randn(3, 16, generator=torch.Generator().manual_seed(2 * step + rank), dtype=torch.float64)


def _train_partly(rank):
    model = DistributedDataParallel(tower(), find_unused_parameters=True)
    optimiser = torch.optim.SGD(trained(model).values(), lr=0.1)
    for step, used in enumerate(USED):
        model(x_of(step, rank), used[rank]).square().sum().backward()
        optimiser.step()
        optimiser.zero_grad()
    return whole(model)


def test_layers_that_some_ranks_skip(ranks):
    model = tower()
    optimiser = torch.optim.SGD(trained(model).values(), lr=0.1)
    for step, used in enumerate(USED):
        for rank in range(2):
            (model(x_of(step, rank), used[rank]).square().sum() / 2).backward()
        optimiser.step()
        optimiser.zero_grad()
    for result in ranks.run(_train_partly):
        torch.testing.assert_close(result, whole(model), **EXACT)


def _placements(rank):
    model = shard(llama("rep"))
    flats = {name: p for name, p in trained(model).items() if name.endswith("flat")}
    starts = [b for name, b in model.named_buffers() if name.endswith("initial")]
    parts = [(p.placements, p.numel(), p.to_local().numel()) for p in flats.values()]
    return parts, [type(start) for start in starts], sum(isinstance(m, FSDPModule) for m in model.modules())


def test_every_train_is_divided_evenly_and_its_start_is_whole(ranks):
    first, second = ranks.run(_placements)
    for (placements, size, own), (_, _, other) in zip(first[0], second[0], strict=True):
        assert placements == (Shard(0),)
        assert own + other == size
        assert own - other in (0, 1)
    assert len(first[0]) == 8
    assert first[1] == [torch.Tensor] * 8
    assert first[2] == 3  # two blocks and the model


def _own_starts(rank):
    base = tiny.llama()
    torch.manual_seed(10 + rank)
    model = get_peft_model(base, CONFIGS["rep"](seed=None, modules_to_save=["lm_head"]))
    model.get_output_embeddings().modules_to_save.default.weight.data.add_(rank)  # as a new head would differ
    _, refused = refusal(assert_same_start, model)
    shard(model)
    assert_same_start(model)
    ids = batch(0, 2)
    head = whole(model)["base_model.model.lm_head.modules_to_save.default.weight"]
    with torch.no_grad():
        adapted = model(ids).logits
        with model.disable_adapter():
            return refused, adapted - model(ids).logits, head


def test_ranks_that_drew_their_own_starts_take_those_of_rank_0(ranks):
    for refused, change, head in ranks.run(_own_starts):
        assert "different starts" in refused
        assert change.abs().max() < 1e-6
        torch.testing.assert_close(head, tiny.llama().lm_head.weight.detach())


def _own_starts_copied(rank):
    base = tiny.llama()
    torch.manual_seed(10 + rank)
    model = get_peft_model(base, CONFIGS["rep"](seed=None))
    refused = refusal(assert_same_start, model)
    DistributedDataParallel(model)
    assert_same_start(model)
    return refused[0], whole(model)


def test_distributed_data_parallel_takes_the_starts_of_rank_0_itself(ranks):
    (refused, first), (also_refused, second) = ranks.run(_own_starts_copied)
    assert refused is also_refused is ShardingError
    torch.testing.assert_close(first, second, rtol=0, atol=0)


def test_alone_every_start_is_the_same():
    assert_same_start(llama("rep"))


def _generate(rank):
    model = shard(tiny.shake(llama("rep"))).eval()
    return model.generate(input_ids=batch(0, 2), attention_mask=torch.ones(2, 5), max_new_tokens=4, do_sample=False)


def test_generate(ranks):
    model = tiny.shake(llama("rep")).eval()
    ids = model.generate(input_ids=batch(0, 2), attention_mask=torch.ones(2, 5), max_new_tokens=4, do_sample=False)
    for result in ranks.run(_generate):
        assert torch.equal(result, ids)


def _switch(rank):
    model = shard(with_two_adapters())
    train(model, rank)
    model.set_adapter("second")
    return train(model, rank)


def test_switching_adapters_of_a_sharded_model(ranks):
    model = with_two_adapters()
    train(model)
    model.set_adapter("second")
    alone = train(model)
    assert all(".second." in name for name in alone)
    for result in ranks.run(_switch):
        torch.testing.assert_close(result, alone, **EXACT)


def tied():
    torch.manual_seed(5)
    config = BertConfig(
        hidden_size=48, num_hidden_layers=1, num_attention_heads=4, intermediate_size=96, vocab_size=tiny.VOCABULARY
    )
    return get_peft_model(BertForMaskedLM(config), CONFIGS["rep"](target_modules=["query"])).eval()


def _tied(rank):
    model = shard(tied())
    with torch.no_grad():
        logits = model(batch(0, 2)).logits
    return logits, [type(m).__name__ for m in model.modules() if isinstance(m, FSDPModule)]


def test_tied_embeddings_stay_with_the_root(ranks):
    for logits, units in ranks.run(_tied):
        torch.testing.assert_close(logits, tied()(batch(0, 2)).logits.detach())
        assert units == ["FSDPPeftModel", "FSDPBertLayer"]


def _norms(rank, dtype):
    model = shard(bert(dtype))
    ids, labels = batch(0, 4).chunk(2)[rank], torch.tensor([0, 1])
    model(input_ids=ids, labels=labels).loss.backward()
    return {name: p.grad.full_tensor() for name, p in trained(model).items()}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_trained_norms_and_head(ranks, dtype):
    model = bert(dtype)
    for ids in batch(0, 4).chunk(2):
        (model(input_ids=ids, labels=torch.tensor([0, 1])).loss / 2).backward()
    exact = {"rtol": 1e-4, "atol": 1e-6} if dtype == torch.float32 else {"rtol": 0.05, "atol": 2e-2}
    for gradients in ranks.run(_norms, dtype):
        assert gradients.keys() == trained(model).keys()
        torch.testing.assert_close(gradients, {n: p.grad for n, p in trained(model).items()}, **exact)


# What cannot be sharded, or is not


def _refusals(rank):
    model, different = llama("rep"), llama("rep")
    if rank == 1:
        different.add_adapter("second", CONFIGS["rep"]())
    empty = get_peft_model(tiny.llama().to("meta"), CONFIGS["rep"](init_weights="zero"))
    bare = tiny.llama()
    late = shard(llama("rep"))
    late.add_adapter("second", CONFIGS["rep"]())
    late.set_adapter("second")
    leaf = llama("rep")
    for module in leaf.modules():
        if isinstance(module, ttlib_peft.TTLinear):
            fully_shard(module)
    fully_shard(leaf)
    copied = DistributedDataParallel(llama("rep"))
    first = FullyShardedDataParallel(llama("rep"), device_id=torch.device("cpu"), use_orig_params=True)
    return {
        "twice": refusal(shard, shard(model)),
        "wrapped": refusal(shard, copied),
        "blocks": refusal(lambda: shard(llama("rep"), blocks=["Paragraph"])),
        "no blocks": refusal(shard, tower()),
        "different": refusal(shard, different),
        "meta": refusal(shard, empty),
        "plain": refusal(assert_sharded, bare),
        "copied": refusal(assert_sharded, copied),
        "first version": refusal(assert_sharded, first),
        "late": refusal(assert_sharded, late),
        "leaf": refusal(assert_sharded, leaf),
        "guard": refusal(lambda: ShardingGuard().on_train_begin(None, None, None, model=bare)),
        "no model": refusal(ShardingGuard().on_train_begin, None, None, None),
        "good": refusal(lambda: ShardingGuard().on_train_begin(None, None, None, model=model, optimizer=None)),
    }


def test_refusals(ranks):
    words = {
        "twice": "holds a FSDPPeftModel already",
        "wrapped": "holds a DistributedDataParallel already",
        "blocks": "no module of this PeftModel is a Paragraph",
        "no blocks": "block that is known",
        "different": "not the same on every rank",
        "meta": "meta device",
        "plain": "a LlamaForCausalLM that nobody sharded",
        "copied": "every rank holds all of it",
        "first version": "FSDP 1",
        "late": "8 trained parameters are not sharded",
        "leaf": "a unit of its own",
        "guard": "fell back to DistributedDataParallel",
        "no model": "passed no model",
    }
    for refusals in ranks.run(_refusals):
        assert refusals.pop("good") is None
        assert refusals.keys() == words.keys()
        for case, word in words.items():
            error, message = refusals[case]
            assert error is ShardingError, case
            assert word in message, case


def test_no_process_group():
    with pytest.raises(ShardingError, match="no process group"):
        shard(llama("rep"))


def _downgrade(rank, folder, port):
    environment = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    os.environ.update({**environment, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"})
    data = [{"input_ids": row, "labels": row} for row in batch(0, 4)]
    settings = TrainingArguments(
        str(folder), use_cpu=True, max_steps=1, report_to=[], fsdp=True, fsdp_config={"version": 2},
        save_strategy="no", disable_tqdm=True,
    )  # fmt: skip
    unguarded = Trainer(llama("rep"), settings, train_dataset=data)
    unguarded.train()
    guarded = Trainer(llama("rep"), settings, train_dataset=data, callbacks=[ShardingGuard()])
    return type(unguarded.model_wrapped).__name__, refusal(guarded.train)


@pytest.mark.slow
def test_trainer_that_falls_back_is_stopped(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    pair = Ranks(tmp_path)  # accelerate keeps what it finds in the environment
    try:
        for silently, (error, message) in pair.run(_downgrade, tmp_path / "out", port):
            assert silently == "DistributedDataParallel"  # FSDP was asked for
            assert error is ShardingError
            assert "found no GPU" in message
    finally:
        pair.stop()
