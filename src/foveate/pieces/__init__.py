"""The vocabulary of steps: small frozen objects that name an op and declare what it reads."""

from .base import Adaptive, Budget, Measure, Merge, Reading, Score, Select, Selection
from .bias import Bias, DistanceBias, SizeBias
from .measures import Complexity
from .merges import BipartiteMerge, ContextualMean, Drop, NearestMean, WindowMean
from .readings import Cls, Keys, LastQuery, PageRank, Received, TextRows, VisionReceived
from .scores import Hybrid, Norm, Random, Read, Saliency
from .seen import Attention, Raters, States, Stream
from .selects import DensityPeaks, DominantContextual, EvenGrid, GridCells, MaxMin, TopK

__all__ = [
    "Adaptive",
    "Attention",
    "Bias",
    "BipartiteMerge",
    "Budget",
    "Cls",
    "Complexity",
    "ContextualMean",
    "DensityPeaks",
    "DistanceBias",
    "DominantContextual",
    "Drop",
    "EvenGrid",
    "GridCells",
    "Hybrid",
    "Keys",
    "LastQuery",
    "MaxMin",
    "Measure",
    "Merge",
    "NearestMean",
    "Norm",
    "PageRank",
    "Random",
    "Raters",
    "Read",
    "Reading",
    "Received",
    "Saliency",
    "Score",
    "Select",
    "Selection",
    "SizeBias",
    "States",
    "Stream",
    "TextRows",
    "TopK",
    "VisionReceived",
    "WindowMean",
]
