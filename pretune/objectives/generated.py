"""The metrics of generated texts by which validation can choose the best weights; the same figures as in evaluation."""

from __future__ import annotations

from pretune.objectives.predictions import Texts

METRICS = ("chrf", "bleu", "exact_match")


def measure(texts: Texts, metric: str) -> float:
    """One of METRICS over all texts: chrF and BLEU by sacrebleu (0 to 100), the share of equal texts (0 to 1)."""
    if metric == "exact_match":
        equal = [a.strip() == b.strip() for a, b in zip(texts.predicted, texts.targets, strict=True)]
        return sum(equal) / len(equal)
    from sacrebleu.metrics import BLEU, CHRF

    scorer = {"chrf": CHRF, "bleu": BLEU}[metric]()
    return float(scorer.corpus_score(texts.predicted, [texts.targets]).score)
