"""Printed scores, in percent: the paper's Tables 1 and 2, the public leaderboard, frozen probes."""

from collections.abc import Sequence
from typing import NamedTuple


class PaperRow(NamedTuple):
    """One row of the paper's Table 1 or 2, and the system of ours that stands for it."""

    method: str
    architecture: str
    pretraining: str
    fused: str
    layer_weights: str
    printed: tuple[str, str, str]
    """Sp, Se, Sc as printed, with standard deviations where the paper has them."""
    recipe: str
    variant: str
    """The recipe's option `variant`; empty where it has none."""
    ratio: str
    """Masking ratio of the M2D pre-training, 0.6 or 0.7."""


class LeaderboardEntry(NamedTuple):
    """One published system: figures in percent, NaN where they are not printed."""

    method: str
    backbone: str
    pretraining: str
    specificity: float
    sensitivity: float
    score: float
    split: str
    """Which recordings tested it, a key of SPLITS."""
    selection: str
    """How its epoch was chosen, a key of SELECTIONS."""
    told: str
    """What it is told beside the sound, or empty: a system that is told more does another task."""
    code: str
    """Public repository, or empty."""
    evidence: str
    """Where split and selection stand (file:line or file:name of the public code), and where the figures are from."""

    @property
    def is_ranked(self) -> bool:
        """Whether the row can stand in one ranking with others: the official split, from the sound alone."""
        return self.split in OFFICIAL and not self.told


OFFICIAL = ("official", "(official)")
SPLITS = {
    "official": "the published list of recordings, read in the public code",
    "(official)": "the published list by the paper's own words, not traced to a line of public code",
    "by patient": "the published list applied to patients: those with recordings on both sides train and test with all "
    "of theirs",
    "recordings at random": "recordings shuffled, so nearly all test patients train too",
    "?": "not known",
}

SELECTIONS = {
    "O": "epoch chosen on the test set (public code, or the paper's own words)",
    "O+T": "epoch and decision thresholds chosen on the test set",
    "(O)": "no code of this system, but the group's public code chooses on the test set",
    "V": "epoch chosen on held-out training patients",
    "?": "not known, no code seen",
}

# How sure it is that a recipe of ours is the published system.
PROVENANCE = {
    "code-verified": "built from its authors' code",
    "secondary": "its input pipeline is known from others' re-use of it only",
    "reconstruction": "rebuilt from little more than an abstract: no reproduction of the published system",
}

# method | architecture | pre-training | fused layers | layer weights | Sp | Se | Sc | our recipe | variant | ratio
TABLE1 = """
M2DViT | M2D ViT | AudioSet | – | – | 71.59 ± 2.64 | 43.25 ± 1.60 | 57.42 ± 0.79 | m2d_fusion | vanilla | 0.6
M2DViT | M2D ViT | AudioSet | – | – | 75.78 ± 5.84 | 39.51 ± 4.64 | 57.64 ± 0.86 | m2d_fusion | vanilla | 0.7
"""

TABLE2 = """
LungRN+NL     | ResNet   | –        | – | – | 63.20 | 41.32 | 52.26 | lungrn_nl       | |
LungAttn      | ResNet   | –        | – | – | 71.44 | 36.36 | 53.90 | lungattn        | |
Wang et al.   | ResNeSt  | ImageNet | – | – | 70.40 | 40.20 | 55.30 | wang_splice     | |
RespireNet    | ResNet34 | ImageNet | – | – | 72.30 | 40.10 | 56.20 | respirenet      | |
ARSC-Net      | ResNet   | –        | – | – | 67.13 | 46.38 | 56.76 | arscnet         | |
Nguyen et al. | ResNet50 | ImageNet | – | – | 79.34 | 37.24 | 58.29 | nguyen_cotuning | |
Moummad et al. | CNN6    | AudioSet | – | – | 75.95 | 39.15 | 57.55 | moummad_scl     | |
M2DViT | M2D ViT | AudioSet | – | – | 75.78 ± 5.84 | 39.51 ± 4.64 | 57.64 ± 0.86 | m2d_fusion | vanilla | 0.7
M2DViT-Fusion (i) | M2D ViT | AudioSet | 5th & 12th | fixed (1.0) \
| 75.43 ± 5.22 | 41.18 ± 5.80 | 58.30 ± 0.97 | m2d_fusion | pair_5_12 | 0.7
M2DViT-Fusion (ii) | M2D ViT | AudioSet | 5th & 11th | fixed (1.0) \
| 82.05 ± 4.16 | 38.06 ± 3.24 | 60.05 ± 1.00 | m2d_fusion | pair_5_11 | 0.7
M2DViT-Fusion (iii) | M2D ViT | AudioSet | 4th & 7th & 10th | fixed (1.0) \
| 79.69 ± 2.68 | 39.96 ± 1.56 | 59.83 ± 0.72 | m2d_fusion | triple_4_7_10 | 0.7
M2DViT-Fusion (iv) | M2D ViT | AudioSet | all | fixed (1.0) \
| 79.71 ± 3.58 | 40.34 ± 2.55 | 59.97 ± 0.69 | m2d_fusion | all_fixed | 0.7
M2DViT-Fusion (v) | M2D ViT | AudioSet | all | learned \
| 79.48 ± 4.99 | 41.87 ± 4.27 | 60.68 ± 0.49 | m2d_fusion | all_learned | 0.7
"""

# Strict four-class sensitivity, as printed up to November 2026; IN = ImageNet, AS = AudioSet. "2nd": somebody else's
# survey or table, the paper itself was not at hand. Public code need not be the code behind a printed figure.
# method | backbone | pre-training | Sp | Se | Score | split | selection | told | code | evidence
LEADERBOARD = """
Resp-Agent (2026) | Longformer, BEATs | language model | 79.29 | 66.10 | 72.70 | (official) | ? \
| a clinical text by a language model | zpforlove/Resp-Agent | figures 2nd; no ICBHI four-class script in the code
Dong, multi-view AST + time domain (2025) | AST | IN + AS | 85.99 | 49.11 | 67.55 | recordings at random | O | \
| deegy666/RSC-FTF | icbhi_dataset.py:41-53, random.Random(1).shuffle, --test_fold is not used; figures 2nd
MVST (2024) | 5 AST | IN + AS | 81.99 | 51.10 | 66.55 | recordings at random | O | | wentaoheunnc/MVST \
| 16/util/icbhi_dataset.py:41-53; views and their fusion chosen on the test set; others quote it as 62.50; figures 2nd
Meta-ensemble (2026) | several | ? | nan | nan | 66.49 | ? | ? | | | 2nd; base models of patient and sample splits
BTS++, k = 30 (2025) | CLAP | LAION | 89.49 | 41.89 | 65.69 | (official) | (O) | text from metadata | \
| 2nd; an ensemble of 30
ADD-RSC (2025) | AST | IN + AS | 85.13 | 45.94 | 65.53 | recordings at random | O | | deegy666/ADD-RSC \
| util/icbhi_dataset.py:42-54 of a public copy; figures 2nd
BTS-d++ (2025) | CLAP | LAION | 88.09 | 42.82 | 65.45 | (official) | (O) | text from metadata | | 2nd
PC-MCL (2026) | BEATs | AS | 79.04 | 51.71 | 65.37 | (official) | O | | wa976/PC-MCL \
| util/dataset_pcmcl.py:70-81 and main.py:1362-1383, as read by others (2nd); figures 2nd
CNN-LSTM, focal loss (2022) | CNN-LSTM | ? | 82.46 | 47.37 | 64.92 | ? | ? | | | 2nd; says official, cited by nobody
PAFA (2025) | BEATs | AS | 82.05 | 47.63 | 64.84 | official | O | | wa976/Patient-Aware-Feature-Alignment \
| util/icbhi_dataset.py:24 reads official_split.txt; main.py:validate
BTS-CARD (2026) | CLAP | LAION | nan | nan | 64.63 | (official) | ? | text from metadata | RSC-Toolkit/BTS-CARD | 2nd
Lung-SRAD (2026) | DASS | ? | 79.53 | 49.42 | 64.48 | (official) | (O) | | | 2nd; code forked from Patch-Mix
BTS-d, k = 15 (2025) | CLAP | LAION | 82.89 | 45.90 | 64.39 | (official) | (O) | text from metadata | | figures 2nd
M2D2 (2026) | BEATs | AS + ICBHI train + FSD50K | 84.34 | 44.25 | 64.30 | official | V | | hunpark923/m2d2_icbhi \
| src/common/icbhi_dataset.py:24 load_official_split; src/cls/train.py:train_cls; seven shifts averaged at test
Wang, HTS-AT (2024) | HTS-AT | IN + AS | 79.61 | 48.77 | 64.19 | (official) | ? | | | figures 2nd
SoftFiLM-AST (2026) | AST | IN + AS | 78.92 | 49.30 | 64.11 | official | O+T | device, site, age, BMI \
| gkontogiannhs/Metadata-Conditioned_Audio_Transformers \
| configs/ast_film_soft_config.yaml split_strategy: official; ast_film_soft.py:main gives the test set as validation
Patch-Mix CL + FBS (2025) | AST | IN + AS | 84.35 | 43.67 | 64.01 | (official) | ? | | | figures 2nd
BTS (2024) | CLAP | LAION | 81.40 | 45.67 | 63.54 | official | O | text from metadata | kaen2891/bts \
| util/icbhi_dataset.py:24 reads official_split.txt; main.py:validate
BEATs, cross-entropy (2025) | BEATs | AS | 78.77 | 48.21 | 63.49 | official | O | \
| wa976/Patient-Aware-Feature-Alignment \
| util/icbhi_dataset.py:24 reads official_split.txt; main.py:validate
QLung (2026) | CLAP | LAION | 81.98 | 44.81 | 63.39 | (official) | ? | | | 2nd
M2D-X, further pre-training (2024) | M2D ViT | AS + ICBHI train + FSD50K | 81.51 | 45.08 | 63.29 | official | O | \
| nttcslab/m2d | app/icbhi_sprs/patch_scl_icbhi2017.diff (ce.py) on the loader of SCL below
CycleGuardian (2025) | small CNN | none | 82.06 | 44.47 | 63.26 | by patient | O | | chumingqian/CycleGuardian \
| ICBHIDataset_v5_1.py:ICBHIDataset_with_event keeps the list by patient (156, 218 on both sides); best test accuracy
LungAdapter (2024) | AST, adapters | IN + AS | 80.43 | 44.37 | 62.40 | (official) | ? | | | figures 2nd
Patch-Mix CL (2023) | AST | IN + AS | 81.66 | 43.07 | 62.37 | official | O | \
| raymin0223/patch-mix_contrastive_learning \
| util/icbhi_dataset.py:25 reads official_split.txt; main.py:validate; re-run 61.49 ± 0.91, last epoch 59.59 (2nd)
ADFF-Net (2025) | AST, two streams | IN + AS | 81.39 | 42.91 | 62.15 | (official) | ? | | | 2nd
M2D, AudioSet only (2024) | M2D ViT | AS | nan | nan | 61.93 | official | O | | nttcslab/m2d \
| as M2D-X; figure from app/icbhi_sprs/graph_icbhi_furpt.svg
AFT, Mixed-500 (2023) | AST | IN + AS | 80.72 | 42.86 | 61.79 | (official) | (O) | | | figures 2nd, ADD-RSC's README
SG-SCL (2024) | AST | IN + AS | 79.87 | 43.55 | 61.71 | official | O | \
| kaen2891/stethoscope-guided_supervised_contrastive_learning \
| util/icbhi_dataset.py:22 reads official_split.txt; main.py:validate
RepAugment (2024) | AST | IN + AS | 82.47 | 40.55 | 61.51 | (official) | (O) | | | figures 2nd
DDE-MAE (2025) | two Audio-MAE | AS | 69.32 | 53.69 | 61.50 | (official) | ? | | | figures 2nd
LoRA-RSC (2025) | AST, LoRA | IN + AS | 85.31 | 36.11 | 60.71 | official | O | | deegy666/LoRA-RSC \
| dataset/icbhi.py:93-97, column split of metadata.csv; main_icbhi.py:201-246
M2DViT-Fusion (v), the paper (2023) | M2D ViT | AS | 79.48 | 41.87 | 60.68 | (official) | O | | | the paper, best epochs
DAT (2024) | AST | IN + AS | 77.11 | 42.50 | 59.81 | (official) | (O) | | | figures 2nd, ADD-RSC's README
AST, fine-tuned (2023) | AST | IN + AS | 77.14 | 41.97 | 59.55 | official | O | \
| raymin0223/patch-mix_contrastive_learning \
| util/icbhi_dataset.py:25 reads official_split.txt; main.py:validate; figures 2nd, ADD-RSC's README
DPAST-LS (2026) | AST, pruned | IN + AS | nan | nan | 58.37 | ? | ? | | | 2nd
Nguyen & Pernkopf, co-tuning (2022) | ResNet50 | IN | 79.34 | 37.24 | 58.29 | (official) | ? | | \
| Table 2 of the paper (2023)
M-SCL (2023) | CNN6 | AS | 76.93 | 39.15 | 58.04 | official | O | | michiel-j/SCL_ICBHI2017 \
| dataset.py:30-34, column split of metadata.csv; main.py gives the test part as validation
SCL, hybrid (2023) | CNN14 | AS | 80.73 | 34.96 | 57.85 | official | O | | michiel-j/SCL_ICBHI2017 \
| dataset.py:30-34, column split of metadata.csv; main.py gives the test part as validation
M2DViT r = 0.7, the paper (2023) | M2D ViT | AS | 75.78 | 39.51 | 57.64 | (official) | O | | | the paper, best epochs
Moummad & Farrugia, SCL (2022) | CNN6 | AS | 75.95 | 39.15 | 57.55 | official | O | | ilyassmoummad/scl_icbhi2017 \
| dataset.py:29-33, column split of metadata.csv; scl.py and ce.py:train_ce keep the best test Score
M2DViT r = 0.6, the paper (2023) | M2D ViT | AS | 71.59 | 43.25 | 57.42 | (official) | O | | | the paper, best epochs
ARSC-Net (2021) | ResNet | none | 67.13 | 46.38 | 56.76 | (official) | ? | | \
| Table 2 of the paper (2023)
RespireNet (2021) | ResNet34 | IN | 72.30 | 40.10 | 56.20 | (official) | O | | microsoft/RespireNet \
| image_dataloader.py has the 80/20 folds only (68.5 there); train.py keeps the best test accuracy
Wang & Wang, domain transfer (2022) | ResNeSt | IN | 70.40 | 40.20 | 55.30 | (official) | ? | | \
| Table 2 of the paper (2023)
LungAttn (2021) | ResNet | none | 71.44 | 36.36 | 53.90 | (official) | O | | SJTU-YONGFU-RESEARCH-GRP/LungAttn \
| pre-processing/pm_pack.py packs folders that are divided before; its confusion matrix gives the printed figures
LungRN+NL (2020) | ResNet | none | 63.20 | 41.32 | 52.26 | (official) | O \
| | SJTU-YONGFU-RESEARCH-GRP/Lung-Sound-Classification-System-LungSys-I \
| Bi-Resnet/pre-processing/pack.py packs folders that are divided before; Bi-Resnet/model/bnn.py tests every epoch
"""
# What Rales has measured itself, none of it on the whole database.
# system | Sp | Se | Score | recordings | split | epoch | where it stands
MEASURED = """
rales, the model of the package | 48.6 | 39.9 | 44.3 [32.3, 56.2] | 76 of the 381 that test | official | last \
| docs/rales.md
rales-mn04, our heads on a public net | 54.7 | 46.8 | 50.7 [41.1, 60.4] | 76 of the 381 that test | official | last \
| docs/rales.md
mn04_fusion, all blocks, frozen EfficientAT | 76.5 | 45.4 | 61.0 [48.2, 73.7] | 157 of the 539 that train \
| five folds of patients | last | docs/results.md, "The blocks of a public network, fused"
M2DViT-Fusion, tiny, random start | 12.2 ± 1.7 | 49.6 ± 5.1 | 30.9 ± 2.4 | 126 of 920 | official | last \
| docs/results.md, "Part of the real database"
M2DViT-Fusion, tiny, random start | 26.9 | 30.3 | 28.6 | 126 of 920 | five folds of patients | last \
| docs/results.md, "Part of the real database"
logistic regression on log-mel statistics | 26.3 | 26.9 | 26.6 | 126 of 920 | official | no epochs \
| docs/results.md, "Part of the real database"
logistic regression on log-mel statistics | 52.1 | 21.5 | 36.8 | 126 of 920 | five folds of patients | no epochs \
| docs/results.md, "Part of the real database"
SVM on log-mel statistics | 58.8 | 25.2 | 42.0 [33.8, 50.2] | 233 of 920 | official | no epochs \
| docs/results.md, "What a split is worth"
SVM on log-mel statistics | 66.8 | 57.7 | 62.2 [56.8, 67.6] | 233 of 920 | leaky: cycles at random | no epochs \
| docs/results.md, "What a split is worth"
every cycle called normal | 100.0 | 0.0 | 50.0 | any | any | no epochs | by definition
"""
# Encoders that stay frozen, with a linear probe, official test side: beside what `rales layers` finds. All 2nd.
# encoder | Score | selection | source
FROZEN_PROBES = """
M2D p16x4 (AudioSet) | 59.38 ± 0.94 | ? | arXiv 2504.18004
BEATs | 57.31 ± 1.40 | ? | arXiv 2504.18004
AST | 54.7 ± 1.3 | V | auscult-trust
HeAR | 52.7 | V | auscult-trust
CLAP | 51.9 | V | auscult-trust
OPERA-CT | 41.7 | V | auscult-trust
"""
# Of a published study on a quarter of the test set, second-hand: to stand beside the all-normal line.
PHYSICIANS = ("seven physicians, blind (Tzeng et al. 2025, second-hand)", "72.30", "23.20", "47.80")
NOT_STRICT = (
    "AST + SAM (2025) prints 68.10 (Sp 67.89, Se 68.31), but counts any abnormal answer to an abnormal cycle as right: "
    "a two-class figure, not ranked here."
)


def paper_rows(table: str) -> list[PaperRow]:
    """TABLE1 or TABLE2 -> its rows in printed order."""
    rows = []
    for line in table.strip().splitlines():
        *system, sp, se, sc, recipe, variant, ratio = (cell.strip() for cell in line.split("|"))
        method, architecture, pretraining, fused, weights = system
        rows.append(PaperRow(method, architecture, pretraining, fused, weights, (sp, se, sc), recipe, variant, ratio))
    return rows


def read_leaderboard() -> list[LeaderboardEntry]:
    """LEADERBOARD as entries, best printed Score first."""
    entries = []
    for line in LEADERBOARD.strip().splitlines():
        method, backbone, pretraining, sp, se, score, *protocol = (cell.strip() for cell in line.split("|"))
        entries.append(LeaderboardEntry(method, backbone, pretraining, float(sp), float(se), float(score), *protocol))
    return entries


def check_leaderboard(entries: Sequence[LeaderboardEntry]) -> None:
    """Entries -> nothing. ValueError: one that does not say which recordings tested it, how its epoch was chosen, or
    where either stands."""
    for entry in entries:
        known = (("split", entry.split, SPLITS), ("selection", entry.selection, SELECTIONS))
        for name, value, codes in known:
            if value not in codes:
                raise ValueError(f"leaderboard, {entry.method}: its {name} is {value!r}, expected one of {list(codes)}")
        if not entry.evidence:
            raise ValueError(f"leaderboard, {entry.method}: nothing says where its split and selection stand")


def read_measured() -> list[list[str]]:
    """MEASURED as rows."""
    return [[cell.strip() for cell in line.split("|")] for line in MEASURED.strip().splitlines()]


def read_frozen_probes() -> list[list[str]]:
    """FROZEN_PROBES as rows."""
    return [[cell.strip() for cell in line.split("|")] for line in FROZEN_PROBES.strip().splitlines()]
