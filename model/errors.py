"""Errors of the package `model`. Every message is one line for a person.

ModelError
├── UnknownModel      no model has the requested name
├── MissingWeights    the weights file is missing; the message says how to fetch the file
├── BadWeights        a weights file is damaged or holds something else
├── ConfigError       a training configuration, or its data, is unusable
├── StateMismatch     a recurrent state belongs to another model or another frame size
└── DeviceError       the requested device is missing or out of memory
"""


class ModelError(Exception):
    """Base class of all errors in this package."""


class UnknownModel(ModelError):
    """No model has the requested name."""


class MissingWeights(ModelError):
    """The weights file of the model is missing."""


class BadWeights(ModelError):
    """A weights file is damaged or holds something else."""


class ConfigError(ModelError):
    """A training configuration, or its data, is unusable. The message is one line with place and cause."""


class StateMismatch(ModelError):
    """A recurrent state belongs to another model or another frame size."""


class DeviceError(ModelError):
    """The requested device is missing or out of memory."""
