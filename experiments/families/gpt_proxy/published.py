"""The paper's evaluations of its 6.7B models: Tables 7, 10 and 11.

"GPT-3" are the numbers of Brown et al. (arXiv:2005.14165).

Source: Tensor Programs V, read from a text of it that had lost decimal points. Every number has its
point back, and the columns that two tables share were compared. PIQA's few-shot score of the
re-run, 77.7, was read as "717", and no other table has it.
"""

from __future__ import annotations

# Task, split, metric; then zero-, one- and few-shot, each of µTransfer, GPT-3 6.7B and its re-run.
TABLE_10 = """
HellaSwag       | dev  | acc     | 72.0 67.4 66.7 | 71.1 66.5 65.9 | 72.4 67.3 66.4
LAMBADA         | test | acc     | 73.5 70.3 70.8 | 69.9 65.4 64.8 | 74.7 79.1 77.1
StoryCloze      | test | acc     | 79.4 77.7 77.3 | 80.6 78.7 78.3 | 84.2 81.2 81.1
NaturalQS       | test | acc     | 9.86 5.79 7.20 | 14.7 9.78 10.6 | 20.2 17.0 15.7
TriviaQA        | dev  | acc     | 47.0 38.7 37.5 | 50.4 44.4 42.5 | 55.5 51.6 49.9
WebQS           | test | acc     | 11.3 7.73 9.79 | 20.2 15.1 16.2 | 33.0 27.7 28.2
Ro→En 16        | test | BLEU-sb | 26.9 8.75 13.7 | 36.5 34.2 33.5 | 38.2 36.2 35.6
En→Ro 16        | test | BLEU-sb | 18.1 5.31 4.40 | 21.0 18.2 17.3 | 22.0 19.6 18.8
Fr→En 14        | test | BLEU-sb | 29.8 15.5 19.6 | 31.7 31.6 30.1 | 38.0 36.4 36.5
En→Fr 14        | test | BLEU-sb | 29.6 11.4 11.6 | 28.8 28.3 26.0 | 33.3 33.3 31.2
De→En 16        | test | BLEU-sb | 31.7 18.2 21.7 | 33.3 31.9 31.1 | 38.9 36.5 36.2
En→De 16        | test | BLEU-sb | 23.1 9.36 9.00 | 24.6 21.7 21.1 | 27.6 24.1 24.5
Winograd        | test | acc     | 85.3 85.7 86.8 | 84.6 84.6 84.2 | 86.4 85.4 83.9
Winogrande      | dev  | acc     | 66.8 64.5 62.5 | 67.6 65.8 64.5 | 71.0 67.4 67.2
PIQA            | dev  | acc     | 79.1 78.0 78.0 | 77.3 76.3 76.9 | 79.2 77.8 77.7
ARC (Challenge) | test | acc     | 42.1 41.4 42.5 | 44.0 41.5 42.4 | 43.8 43.7 42.7
ARC (Easy)      | test | acc     | 64.3 60.2 61.9 | 65.3 62.6 63.4 | 67.3 65.8 65.3
OpenBookQA      | test | acc     | 54.4 50.4 52.6 | 56.4 53.0 52.8 | 58.4 55.2 54.4
Quac            | dev  | f1      | 41.8 36.1 38.2 | 43.1 39.0 39.5 | 44.0 39.9 39.9
RACE-h          | test | acc     | 45.0 44.1 43.2 | 44.9 44.3 42.9 | 45.2 44.7 43.4
RACE-m          | test | acc     | 58.4 54.4 54.0 | 57.9 54.7 53.8 | 58.6 55.4 55.4
SQuADv2         | dev  | f1      | 59.9 52.7 50.9 | 64.9 57.1 54.7 | 68.9 62.1 58.4
CoQA            | dev  | f1      | 78.5 72.8 72.9 | 80.9 75.1 74.4 | 81.3 77.3 75.4
DROP            | dev  | f1      | 17.1 17.0 17.4 | 23.3 27.3 25.7 | 33.9 29.7 28.7
BoolQ           | dev  | acc     | 69.4 65.4 60.9 | 74.1 68.7 65.0 | 73.9 70.0 69.7
CB              | dev  | acc     | 21.4 28.6 37.5 | 60.7 33.9 32.1 | 62.5 60.7 66.1
Copa            | dev  | acc     | 82.0 80.0 77.0 | 81.0 82.0 81.0 | 88.0 83.0 82.0
RTE             | dev  | acc     | 55.2 55.2 46.2 | 61.0 54.9 58.8 | 52.7 49.5 59.9
WiC             | dev  | acc     | 0.0 0.0 0.0    | 50.0 50.3 50.3 | 50.5 53.1 51.3
ANLI R1         | test | acc     | 33.7 32.3 33.4 | 32.4 31.6 31.7 | 30.9 33.1 30.7
ANLI R2         | test | acc     | 33.8 33.5 33.0 | 34.8 33.9 33.7 | 35.0 33.3 32.2
ANLI R3         | test | acc     | 32.7 34.8 33.4 | 34.8 33.1 33.3 | 36.9 33.9 32.3
"""
# Zero-, one- and few-shot of GPT-3 13B; the tasks are those of Table 10, in its order.
TABLE_11 = """
70.9 70.0 71.3 | 72.5 69.0 81.3 | 79.5 79.7 83.0 | 7.84 13.7 21.0 | 41.8 51.3 57.5 | 8.22 19.0 33.5
20.8 36.7 38.4 | 6.43 20.8 21.8 | 22.4 31.4 38.3 | 15.3 30.1 35.5 | 24.4 34.5 39.1 | 11.0 23.3 27.7
87.9 86.1 82.4 | 67.9 66.9 70.0 | 78.5 77.8 79.9 | 43.7 43.1 44.8 | 63.8 66.8 69.1 | 55.6 55.8 60.8
38.4 40.6 40.9 | 44.6 44.6 45.1 | 56.7 56.9 58.1 | 56.3 61.8 67.7 | 76.3 77.9 79.9 | 24.0 29.2 32.3
66.2 69.0 70.2 | 19.6 55.4 66.1 | 84.0 86.0 86.0 | 62.8 56.3 60.6 | 0.0 50.0 51.1 | 33.2 32.7 33.3
33.5 33.9 32.6 | 34.4 32.5 34.5
"""
"""Of the 32 tasks of Table 10."""
# Validation loss and perplexities of µTransfer and the re-run.
PERPLEXITIES = {
    "Validation loss": ("cross-entropy", 1.98, 2.03),
    "PTB": ("perplexity", 11.4, 13.0),
    "WikiText-103": ("perplexity", 8.56, 9.13),
    "One Billion Words": ("perplexity", 20.5, 21.7),
}
# Parameters of proxy and target; tokens and number of the trials of both searches; the target's
# tokens (Appendix F.4).
PARAMETERS = 40e6, 6.7e9
TRIALS = ((4e9, 350), (16e9, 117))
TOKENS = 300e9
SHOTS = ("zero-shot", "one-shot", "few-shot")
MODELS = ("mup", "gpt3", "rerun")

Scores = dict[tuple[str, str], str]
"""As the paper prints them, by number of shots and model."""


def table_10() -> dict[tuple[str, str, str], Scores]:
    """Scores by task, split and metric, of µTransfer, GPT-3 6.7B and its re-run."""
    found = {}
    for line in TABLE_10.strip().splitlines():
        task, split, metric, *shots = (cell.strip() for cell in line.split("|"))
        found[task, split, metric] = {
            (shot, model): score
            for shot, scores in zip(SHOTS, shots, strict=True)
            for model, score in zip(MODELS, scores.split(), strict=True)
        }
    return found


def table_11() -> dict[tuple[str, str, str], Scores]:
    """Scores by task, split and metric, of µTransfer with 6.7B parameters and of GPT-3 13B."""
    rows = [row.split() for line in TABLE_11.strip().splitlines() for row in line.split("|")]
    found = {}
    for (task, scores), row in zip(table_10().items(), rows, strict=True):
        mup = {key: score for key, score in scores.items() if key[1] == "mup"}
        found[task] = mup | {(s, "gpt3-13b"): x for s, x in zip(SHOTS, row, strict=True)}
    return found


def tuning_cost() -> float:
    """The paper's search over one training of its target, with FLOPs as parameters times tokens.

    Source: Tensor Programs V, Appendix F.4: about 0.07.
    """
    proxy, target = PARAMETERS
    return proxy * sum(tokens * trials for tokens, trials in TRIALS) / (target * TOKENS)
