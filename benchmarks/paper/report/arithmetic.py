"""Claims that need no training: counts of parameters, ranks, and the paper's tables beside each other."""

from __future__ import annotations

import logging
import math
import statistics
from collections.abc import Mapping
from functools import cache

import numpy as np

import ttlib
from benchmarks.paper.report import printed
from benchmarks.paper.report.aggregate import Evidence
from benchmarks.paper.report.findings import Claim, Finding, misprint_if, reproduced_if
from benchmarks.paper.report.printed import ADP, REP
from ttlib_peft.architectures import find_config
from ttlib_peft.counting import CountSettings, compare_methods, count_adapter
from ttlib_peft.presets import PAPER, PaperMethod, paper

_BOTTLENECK, _ADAPTERS_A_LAYER = 64, 3
_DEV_ROWS = {"CB": 56, "WSC": 104, "SST-2": 872, "MRPC": 408}  # of the official development sets
_WSC_LARGER_CLASS = 66  # of the 104 rows
_FACTOR = 57.4
_FLOAT32, _BFLOAT16 = 4, 2  # bytes


@cache
def paper_count(model: str, method: PaperMethod) -> Mapping[str, int]:
    """What the paper's configuration trains, counted on the meta device."""
    log = logging.getLogger("ttlib_peft")
    level = log.level
    log.setLevel(logging.ERROR)  # that r is more than the rank is a claim below
    try:
        return count_adapter(model, paper(model, method)).trained
    finally:
        log.setLevel(level)


@cache
def _lora(model: str) -> int:
    (row,) = compare_methods(model, ["lora"], CountSettings(rank=8)).rows
    assert row.count is not None
    return row.count.trained["adapters"]


@cache
def _dense_adapters(model: str) -> int:
    """The weights, without biases, of dense adapters where the paper's code puts LoRETTA_adp's."""
    sizes = find_config(model)[0]
    return int(sizes.num_hidden_layers * _ADAPTERS_A_LAYER * 2 * sizes.hidden_size * _BOTTLENECK)


def _factor_57(_: Evidence) -> Finding:
    dense, adp = _dense_adapters("llama-2-7b"), paper_count("llama-2-7b", "adp")["total"]
    return reproduced_if(
        math.isclose(dense / adp, _FACTOR, abs_tol=0.05),
        f"{dense:,} / {adp:,} = {dense / adp:.1f}, against dense adapters of bottleneck {_BOTTLENECK}.",
    )


def _factor_57_lora(_: Evidence) -> Finding:
    lora, adp = _lora("llama-2-7b"), paper_count("llama-2-7b", "adp")["total"]
    return misprint_if(
        not math.isclose(lora / adp, _FACTOR, abs_tol=0.05),
        f"Against LoRA r=8 on query and value it is {lora:,} / {adp:,} = {lora / adp:.1f}; {_FACTOR} is against dense "
        "adapters.",
        f"{lora:,} / {adp:,} = {lora / adp:.1f}.",
    )


def _factor_100(_: Evidence) -> Finding:
    dense, lora, rep = _dense_adapters("llama-2-7b"), _lora("llama-2-7b"), paper_count("llama-2-7b", "rep")["total"]
    return reproduced_if(
        round(dense / rep, -1) == 100,
        f"{dense:,} / {rep:,} = {dense / rep:.0f} is LoRETTA_rep against dense adapters of bottleneck {_BOTTLENECK}; "
        f"against LoRA r=8 it is {lora / rep:.1f}.",
    )


def _norms_among_counts(_: Evidence) -> Finding:
    shares = {model: _norm_share(paper_count(model, "rep")) for model in ("deberta-base", "llama-2-7b")}
    trained = paper_count("deberta-base", "rep")
    return reproduced_if(
        max(shares.values()) < 0.5,
        f"Of what LoRETTA_rep trains on DeBERTa-base {shares['deberta-base']:.0%} is LayerNorm "
        f"({trained['norms']:,} of {trained['total']:,}), on LLaMA-2-7B {shares['llama-2-7b']:.0%} is RMSNorm. The "
        "counts of LoRA beside it have no norms.",
    )


def _norm_share(trained: Mapping[str, int]) -> float:
    return trained["norms"] / trained["total"]


def _single_adapter(_: Evidence) -> Finding:
    rule, modes = 6 * 5 * 8 * 5, [8, 8, 12, 8, 8]
    cores = 2 * ttlib.count_parameters(modes, ranks=5)
    biases = _BOTTLENECK + 768
    return misprint_if(
        rule != cores + biases,
        f"1.2K is 6 x 5 x 8 x 5 = {rule:,}, one train of six modes of 8, which is 512 x 512; the two trains of an "
        f"adapter 768 -> 64 -> 768 have {cores:,} numbers and their biases {biases}: {cores + biases:,}.",
        f"The two trains and their biases are {cores + biases:,} numbers.",
    )


def _seventy_billion(_: Evidence) -> Finding:
    ours, said = paper_count("llama-2-70b", "adp")["total"], PAPER["llama-2-70b", "adp"].printed
    return reproduced_if(
        f"{ours / 1e6:.2f}M" == said,
        f"No setting of the paper's code gives {said}; the nearest is tensor rank 8 with {ours:,}.",
    )


def _ninety_eight(_: Evidence) -> Finding:
    count = paper_count("deberta-base", "adp")["total"]
    said = printed.row("Table 6", ADP).millions
    return misprint_if(
        f"{count / 1e6:.3f}" != said,
        f"Rank 5 trains {count:,}, {count / 1e6:.3f}M; the table prints {said}M.",
        f"Rank 5 trains {count:,}.",
    )


def _random_update(seed: int) -> np.ndarray:
    """The 768 x 768 update of LoRETTA_rep with r=8 and tensor rank 5, as the paper draws it."""
    left = ttlib.random([8, 8, 12, 8], ranks=5, seed=2 * seed).factor_pair(768, 8)
    right = ttlib.random([8, 12, 8, 8], ranks=5, seed=2 * seed + 1).factor_pair(8, 768)
    return np.linalg.multi_dot([*left, *right])


@cache
def _rank_of_update() -> int:
    return int(np.linalg.matrix_rank(_random_update(0)))


@cache
def _noise_ratios() -> tuple[float, ...]:
    return tuple(abs(float(delta.mean() / delta.std())) for delta in map(_random_update, range(20)))


def _effective_rank(_: Evidence) -> Finding:
    rank = _rank_of_update()
    return reproduced_if(
        rank == 8,
        f"With tensor rank 5 the update of a 768 x 768 matrix has rank {rank} (numerically, random trains): r is the "
        "size in the middle, and the tensor rank caps the rank.",
    )


def _mean_noise(_: Evidence) -> Finding:
    ratios = _noise_ratios()
    ratio = statistics.median(ratios)
    return reproduced_if(
        ratio > 0.1,
        f"The mean of a random start of LoRETTA_rep is {ratio:.4f} of its standard deviation (median of "
        f"{len(ratios)} starts, 768 x 768): subtracting it leaves the noise where it was. The paper's code does not "
        'do it either; taking the whole start out of the weight does remove it (`init_weights="residual"`).',
    )


def _table_4_mean(_: Evidence) -> Finding:
    lora = printed.row("Table 4", "LoRA", "sequence")
    mean, rows = statistics.fmean(lora.scores.values()), _DEV_ROWS["MRPC"]
    implied = 3 * (lora.mean or 0) - lora.scores["SST-2"] - lora.scores["QNLI"]
    count = printed.count_of(implied, rows, tolerance=0.02)  # the printed mean is rounded, and counts three times
    hint = (
        f" {lora.scores['MRPC']} is no whole number of the {rows} rows of MRPC, {implied:.2f} is ({count} of them) and "
        "gives the printed mean: the misprint may be that cell."
        if printed.count_of(lora.scores["MRPC"], rows) is None and count is not None
        else ""
    )
    return misprint_if(
        abs(mean - (lora.mean or 0)) > 0.011,
        f"The mean of LoRA's row is {mean:.2f}, printed is {lora.mean:.2f}.{hint}",
        f"It is {mean:.2f}.",
    )


def _table_4_chance(_: Evidence) -> Finding:
    sst2, mrpc = printed.column("Table 4", "SST-2"), printed.column("Table 4", "MRPC")
    return reproduced_if(
        min(sst2.values()) > 55,
        f"SST-2 stands at {min(sst2.values())} to {max(sst2.values())} for all methods, where guessing gives about 51: "
        f"all of it is forgotten. MRPC stands at {min(mrpc.values())} to {max(mrpc.values())}, mostly below guessing: "
        "one head serves three tasks, and QNLI calls the positive class 0 where MRPC calls it 1.",
    )


def _averages(_: Evidence) -> Finding:
    wrong = [(own, mean) for own, mean in printed.wrong_means() if own.table == "Table 1"]
    told = ", ".join(
        f"{own.method}{' ' + own.setting if own.setting else ''} {own.mean} (its row gives {mean:.2f})"
        for own, mean in wrong
    )
    rows = {name: printed.row("Table 1", name, model="DeBERTa-base").scores for name in (ADP, REP)}
    means = {name: statistics.fmean(scores.values()) for name, scores in rows.items()}
    order = "below" if means[ADP] < means[REP] else "above"
    return misprint_if(
        bool(wrong),
        f"{len(wrong)} averages are not those of their rows: {told}; adp is {order} rep.",
        "All averages are those of their rows.",
    )


def _contradictions(_: Evidence) -> Finding:
    found = printed.contradictions()
    told = "; ".join(
        f"{own.method} on {own.column}: {', '.join(f'{score} in {table}' for table, score in own.printed.items())}"
        for own in found
    )
    return misprint_if(bool(found), f"{told}.", "They do.")


def _f1_or_accuracy(_: Evidence) -> Finding:
    fits = {}
    for task in ("CB", "WSC"):
        scores = printed.column("Table 2", task).values()
        fits[task] = (sum(printed.count_of(score, _DEV_ROWS[task]) is not None for score in scores), len(scores))
    example = printed.row("Table 2", ADP).scores
    told = " and ".join(
        f"{fit} of {all_of} scores on {task} are whole numbers of its {_DEV_ROWS[task]} rows"
        for task, (fit, all_of) in fits.items()
    )
    return misprint_if(
        all(2 * fit > all_of for fit, all_of in fits.values()),
        f"{told} (CB {example['CB']} = {printed.count_of(example['CB'], 56)}/56): they are accuracies.",
        f"{told}.",
    )


def _wsc_constant(_: Evidence) -> Finding:
    constant = 100 * _WSC_LARGER_CLASS / _DEV_ROWS["WSC"]
    scores = printed.column("Table 2", "WSC")
    best = max(scores.values())
    return reproduced_if(
        best > constant + 0.01,
        f'Answering "no" {_DEV_ROWS["WSC"]} times scores {constant:.2f}: no method of the table is above that, '
        "so the column says nothing about any of them.",
    )


def _storage(_: Evidence) -> Finding:
    rep, small = paper_count("llama-2-7b", "rep")["total"], paper_count("deberta-base", "rep")["total"]
    return reproduced_if(
        round(_BFLOAT16 * rep / 1e6) == 1,
        f"On LLaMA-2-7B the {rep:,} numbers take {_BFLOAT16 * rep / 1e6:.2f} MB in bfloat16 and "
        f"{_FLOAT32 * rep / 1e6:.2f} MB in float32; on DeBERTa-base {_FLOAT32 * small / 1e6:.2f} MB in float32.",
    )


ARITHMETIC = (
    Claim("Figure 5", "LoRETTA_adp trains 57.4 times fewer parameters than adapters on LLaMA-2-7B.", _factor_57),
    Claim("Figure 5, as often quoted", "LoRETTA_adp trains 57.4 times fewer than LoRA.", _factor_57_lora),
    Claim("Abstract", "Up to 100 times fewer parameters on LLaMA-2-7B.", _factor_100),
    Claim("Tables 1 to 3", "The few trainable parameters are those of the tensor trains.", _norms_among_counts),
    Claim("Section 3.2", "One tensorised adapter has 1.2K parameters.", _single_adapter),
    Claim("Table 3", "LoRETTA_adp trains 4.79M on LLaMA-2-70B.", _seventy_billion),
    Claim("Table 6", "LoRETTA_adp of rank 5 trains 0.098M.", _ninety_eight),
    Claim("Section 3.3", "LoRETTA_rep with r=8 and tensor rank 5 is a counterpart of LoRA with r=8.", _effective_rank),
    Claim("Section 3.3", "The mean of the reconstructed start measures its noise, to be taken out.", _mean_noise),
    Claim("Table 1", "The averages over the tasks.", _averages),
    Claim("Table 2", "On WSC LoRETTA_adp and full fine-tuning have learnt most (63.46).", _wsc_constant),
    Claim("Table 4", "LoRA's mean after three tasks is 55.70.", _table_4_mean),
    Claim("Table 4", "The scores after three tasks show how much of the first two is kept.", _table_4_chance),
    Claim("Tables 1, 6, 7, 11", "Rows of the same setting have the same scores.", _contradictions),
    Claim("Table 9", "CB and WSC are scored by F1.", _f1_or_accuracy),
    Claim("Figure 5", "LoRETTA_rep takes about 1 MB.", _storage),
)
