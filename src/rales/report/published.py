"""Printed figures, as facts: the paper's Tables 1 and 2 and the public leaderboard, all in percent."""

from typing import NamedTuple


class Row(NamedTuple):
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


class Entry(NamedTuple):
    """One published system: figures in percent, NaN where only the Score is printed."""

    method: str
    backbone: str
    pretraining: str
    specificity: float
    sensitivity: float
    score: float
    selection: str
    """How its epoch was chosen, a key of SELECTIONS."""
    code: str
    """Public repository, or empty."""


SELECTIONS = {
    "O": "epoch chosen on the official test set (public code, or the paper's own words)",
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

# Strict four-class sensitivity on the official split, as printed up to June 2026; IN = ImageNet, AS = AudioSet.
# method | backbone | pre-training | Sp | Se | Score | selection | code
LEADERBOARD = """
Dong, multi-view AST + time domain (2025) | AST | IN + AS | 85.99 | 49.11 | 67.55 | (O) | deegy666/RSC-FTF
MVST (2024) | 5 AST | IN + AS | 81.99 | 51.10 | 66.55 | O | wentaoheunnc/MVST
ADD-RSC (2025) | AST | IN + AS | 85.13 | 45.94 | 65.53 | (O) | deegy666/ADD-RSC
PAFA (2025) | BEATs | AS | 82.05 | 47.63 | 64.84 | O | wa976/Patient-Aware-Feature-Alignment
BTS-d, k = 15 (2025) | CLAP, metadata text | LAION | 82.89 | 45.90 | 64.39 | (O) |
M2D2 (2026) | BEATs | AS + ICBHI train + FSD50K | 84.34 | 44.25 | 64.30 | V | hunpark923/m2d2_icbhi
Wang, HTS-AT (2024) | HTS-AT | IN + AS | 79.61 | 48.77 | 64.19 | ? |
SoftFiLM-AST (2026) | AST, metadata | IN + AS | 78.92 | 49.30 | 64.11 | O+T \
| gkontogiannhs/Metadata-Conditioned_Audio_Transformers
Patch-Mix CL + FBS (2025) | AST | IN + AS | 84.35 | 43.67 | 64.01 | ? |
BTS (2024) | CLAP, metadata text | LAION | 81.40 | 45.67 | 63.54 | O | kaen2891/bts
BEATs, cross-entropy (2025) | BEATs | AS | 78.77 | 48.21 | 63.49 | O | wa976/Patient-Aware-Feature-Alignment
M2D-X, further pre-training (2024) | M2D ViT | AS + ICBHI train + FSD50K | 81.51 | 45.08 | 63.29 | O | nttcslab/m2d
CycleGuardian (2025) | small CNN | none | 82.06 | 44.47 | 63.26 | O | chumingqian/CycleGuardian
LungAdapter (2024) | AST, adapters | IN + AS | 80.43 | 44.37 | 62.40 | ? |
Patch-Mix CL (2023) | AST | IN + AS | 81.66 | 43.07 | 62.37 | O | raymin0223/patch-mix_contrastive_learning
ADFF-Net (2025) | AST, two streams | IN + AS | 81.39 | 42.91 | 62.15 | ? |
M2D, AudioSet only (2024) | M2D ViT | AS | nan | nan | 61.93 | O | nttcslab/m2d
SG-SCL (2024) | AST | IN + AS | 79.87 | 43.55 | 61.71 | O | kaen2891/stethoscope-guided_supervised_contrastive_learning
RepAugment (2024) | AST | IN + AS | 82.47 | 40.55 | 61.51 | (O) |
DDE-MAE (2025) | two Audio-MAE | AS | 69.32 | 53.69 | 61.50 | ? |
LoRA-RSC (2025) | AST, LoRA | IN + AS | 85.31 | 36.11 | 60.71 | O | deegy666/LoRA-RSC
M2DViT-Fusion (v), the paper (2023) | M2D ViT | AS | 79.48 | 41.87 | 60.68 | O |
Nguyen & Pernkopf, co-tuning (2022) | ResNet50 | IN | 79.34 | 37.24 | 58.29 | ? |
M-SCL (2023) | CNN6 | AS | 76.93 | 39.15 | 58.04 | O | michiel-j/SCL_ICBHI2017
SCL, hybrid (2023) | CNN14 | AS | 80.73 | 34.96 | 57.85 | O | michiel-j/SCL_ICBHI2017
M2DViT r = 0.7, the paper (2023) | M2D ViT | AS | 75.78 | 39.51 | 57.64 | O |
Moummad & Farrugia, SCL (2022) | CNN6 | AS | 75.95 | 39.15 | 57.55 | O | ilyassmoummad/scl_icbhi2017
M2DViT r = 0.6, the paper (2023) | M2D ViT | AS | 71.59 | 43.25 | 57.42 | O |
ARSC-Net (2021) | ResNet | none | 67.13 | 46.38 | 56.76 | ? |
RespireNet (2021) | ResNet34 | IN | 72.30 | 40.10 | 56.20 | O | microsoft/RespireNet
Wang & Wang, domain transfer (2022) | ResNeSt | IN | 70.40 | 40.20 | 55.30 | ? |
LungAttn (2021) | ResNet | none | 71.44 | 36.36 | 53.90 | O | SJTU-YONGFU-RESEARCH-GRP/LungAttn
LungRN+NL (2020) | ResNet | none | 63.20 | 41.32 | 52.26 | O \
| SJTU-YONGFU-RESEARCH-GRP/Lung-Sound-Classification-System-LungSys-I
"""
NOT_STRICT = (
    "AST + SAM (2025) prints 68.10 (Sp 67.89, Se 68.31), but counts any abnormal answer to an abnormal cycle as right: "
    "a two-class figure, not ranked here."
)


def paper_rows(table: str) -> list[Row]:
    """TABLE1 or TABLE2 -> its rows in printed order."""
    rows = []
    for line in table.strip().splitlines():
        *system, sp, se, sc, recipe, variant, ratio = (cell.strip() for cell in line.split("|"))
        method, architecture, pretraining, fused, weights = system
        rows.append(Row(method, architecture, pretraining, fused, weights, (sp, se, sc), recipe, variant, ratio))
    return rows


def leaderboard() -> list[Entry]:
    """LEADERBOARD as entries, best printed Score first."""
    entries = []
    for line in LEADERBOARD.strip().splitlines():
        method, backbone, pretraining, *figures, selection, code = (cell.strip() for cell in line.split("|"))
        sp, se, score = map(float, figures)
        entries.append(Entry(method, backbone, pretraining, sp, se, score, selection, code))
    return entries
