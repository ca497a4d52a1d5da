"""The vocabulary of steps: small frozen objects that name an op and declare what it reads."""

from .base import Adaptive, Attention, Measure, Merge, Reading, Score, Select, Selection
from .measures import Complexity
from .merges import BipartiteMerge, ContextualMean, Drop, NearestMean, WindowMean
from .readings import Cls, Keys, LastQuery, PageRank, Received, TextRows, VisionReceived
from .scores import Hybrid, Norm, Random, Read, Saliency
from .selects import DensityPeaks, DominantContextual, EvenGrid, GridCells, MaxMin, TopK

__all__ = [
    "Adaptive",
    "Attention",
    "BipartiteMerge",
    "Cls",
    "Complexity",
    "ContextualMean",
    "DensityPeaks",
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
    "Read",
    "Reading",
    "Received",
    "Saliency",
    "Score",
    "Select",
    "Selection",
    "TextRows",
    "TopK",
    "VisionReceived",
    "WindowMean",
]
