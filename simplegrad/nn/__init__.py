"""Neural networks: modules with parameters and a state, layers, losses, initialisers, files.

>>> import simplegrad as sg
>>> from simplegrad import nn
>>> net = nn.Sequential(nn.Linear(4, 8), sg.relu, nn.Linear(8, 3))
>>> sorted(net.state_dict())
['0.bias', '0.weight', '2.bias', '2.weight']
"""

from simplegrad.nn import init
from simplegrad.nn.attention import (
    MultiHeadAttention,
    TransformerEncoder,
    TransformerEncoderLayer,
)
from simplegrad.nn.layers import Conv1d, Conv2d, Dropout, Embedding, Flatten, Linear
from simplegrad.nn.losses import (
    binary_cross_entropy,
    cross_entropy,
    huber,
    kl_divergence,
    l1,
    mse,
)
from simplegrad.nn.module import Module, Sequential
from simplegrad.nn.norm import BatchNorm, LayerNorm
from simplegrad.nn.pooling import AvgPool1d, AvgPool2d, MaxPool1d, MaxPool2d
from simplegrad.nn.recurrent import GRU, LSTM, RNN
from simplegrad.nn.state import load, save

__all__ = [
    "GRU",
    "LSTM",
    "RNN",
    "AvgPool1d",
    "AvgPool2d",
    "BatchNorm",
    "Conv1d",
    "Conv2d",
    "Dropout",
    "Embedding",
    "Flatten",
    "LayerNorm",
    "Linear",
    "MaxPool1d",
    "MaxPool2d",
    "Module",
    "MultiHeadAttention",
    "Sequential",
    "TransformerEncoder",
    "TransformerEncoderLayer",
    "binary_cross_entropy",
    "cross_entropy",
    "huber",
    "init",
    "kl_divergence",
    "l1",
    "load",
    "mse",
    "save",
]
