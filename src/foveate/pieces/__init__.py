"""The vocabulary of steps: small frozen objects that name an op and declare what it reads."""

from .aggregate import AttentionSum, Surroundings
from .anchors import WithAnchors
from .base import Adaptive, Budget, Completing, Measure, Merge, Reading, Score, Select, Selection
from .bias import Bias, DistanceBias, SizeBias
from .boxes import QuadtreeMerge, WholeGrid
from .budgets import StandingOut
from .cascade import CostRule, MergeThenPrune, RunMeanThenDrop
from .chain import Chain
from .clusters import DistanceClusters, Recycle
from .coverage import Coverage, Dpp, TextCoverage, Unexplained
from .distinct import Dedup, DistinctInGroups
from .extent import Extent, Piece
from .frames import (
    AnchorFrames,
    Attended,
    Curvature,
    EqualFrames,
    FrameOrMore,
    FrameWeights,
    PerFrame,
    ReleasedWindows,
    WholeFrames,
)
from .llm import AttendedWords, DualText, GlobalQuery, KeyLength, LayerKeys, SalientHeads, TextPeak
from .measures import Complexity
from .merges import BipartiteMerge, ContextualMean, Drop, NearestMean, WindowMean
from .outliers import FrameOutlier, GaussianOutlier, Uniqueness
from .pivots import LeastLikePivots
from .readings import Cls, Keys, LastQuery, PageRank, Received, TextRows, VisionReceived
from .recall import Recall
from .scores import Hybrid, Norm, Product, Random, Read, Saliency, Sum
from .seen import Attention, Raters, States, Stream
from .segments import CutsWhereFramesChange, Scenes, Segments
from .selects import DensityPeaks, DominantContextual, EvenGrid, GridCells, MaxMin, TopK
from .spatial import AnchorsAround, BestOfEach, Groups, LocalVariety, Quota, Runs, Windows
from .spread import ClsOverPatches, MeanAttention, Spread, WeakestLower
from .states import FinalNorm, Transition, Variation
from .temporal import Change, Changed, RunMean, SinkFree
from .text import NearestToWords, TextRelevance
from .tubes import (
    ConnectedMerge,
    DistinctThenTrees,
    JoinEveryAnchorFrame,
    SalientAndAnchors,
    StillSegments,
    StillWindows,
)
from .views import Crops, GlobalShare, HiredShare, LocalAndGlobal
from .vision import ClsAcrossHeads, Features

__all__ = [
    "Adaptive",
    "AnchorFrames",
    "AnchorsAround",
    "Attended",
    "AttendedWords",
    "Attention",
    "AttentionSum",
    "BestOfEach",
    "Bias",
    "BipartiteMerge",
    "Budget",
    "Chain",
    "Change",
    "Changed",
    "Cls",
    "ClsAcrossHeads",
    "ClsOverPatches",
    "Completing",
    "Complexity",
    "ConnectedMerge",
    "ContextualMean",
    "CostRule",
    "Coverage",
    "Crops",
    "Curvature",
    "CutsWhereFramesChange",
    "Dedup",
    "DensityPeaks",
    "DistanceBias",
    "DistanceClusters",
    "DistinctInGroups",
    "DistinctThenTrees",
    "DominantContextual",
    "Dpp",
    "Drop",
    "DualText",
    "EqualFrames",
    "EvenGrid",
    "Extent",
    "Features",
    "FinalNorm",
    "FrameOrMore",
    "FrameOutlier",
    "FrameWeights",
    "GaussianOutlier",
    "GlobalQuery",
    "GlobalShare",
    "GridCells",
    "Groups",
    "HiredShare",
    "Hybrid",
    "JoinEveryAnchorFrame",
    "KeyLength",
    "Keys",
    "LastQuery",
    "LayerKeys",
    "LeastLikePivots",
    "LocalAndGlobal",
    "LocalVariety",
    "MaxMin",
    "MeanAttention",
    "Measure",
    "Merge",
    "MergeThenPrune",
    "NearestMean",
    "NearestToWords",
    "Norm",
    "PageRank",
    "PerFrame",
    "Piece",
    "Product",
    "QuadtreeMerge",
    "Quota",
    "Random",
    "Raters",
    "Read",
    "Reading",
    "Recall",
    "Received",
    "Recycle",
    "ReleasedWindows",
    "RunMean",
    "RunMeanThenDrop",
    "Runs",
    "Saliency",
    "SalientAndAnchors",
    "SalientHeads",
    "Scenes",
    "Score",
    "Segments",
    "Select",
    "Selection",
    "SinkFree",
    "SizeBias",
    "Spread",
    "StandingOut",
    "States",
    "StillSegments",
    "StillWindows",
    "Stream",
    "Sum",
    "Surroundings",
    "TextCoverage",
    "TextPeak",
    "TextRelevance",
    "TextRows",
    "TopK",
    "Transition",
    "Unexplained",
    "Uniqueness",
    "Variation",
    "VisionReceived",
    "WeakestLower",
    "WholeFrames",
    "WholeGrid",
    "WindowMean",
    "Windows",
    "WithAnchors",
]
