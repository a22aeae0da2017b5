"""What models and costs are called in reports, tables and messages."""

from __future__ import annotations

MODELS = {  # in the order in which they are shown
    "finetuned": "finetuned from the pretrained model",
    "scratch": "the same model from scratch",
    "tfidf": "TF-IDF and a linear model",
    "pixels": "pixels and a linear model",
    "linear": "linear model",
    "nearest": "nearest training row or sentence",
    "silent": "no answer to any question",
    "unigram": "frequencies of bytes",
    "mean": "mean of the training rows",
    "majority": "majority baseline",
}
COSTS = {  # metrics of the run of a training stage
    "seconds": "seconds",
    "device_hours": "device hours",
    "flops": "FLOPs",
    "energy_kwh": "kWh",
    "co2_kg": "kg of CO₂",
    "parameters": "parameters",
    "system/process_memory_usage_megabytes": "MB of memory",
}
