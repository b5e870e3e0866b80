"""What can go wrong with a model. Every message is one line for a person.

ModelError
├── UnknownModel      no model of that name
├── MissingWeights    known, but its weights file is not here; says how to get it
├── BadWeights        a weights file that is not what it should be
├── ConfigError       a training configuration, or its data, that cannot be used (`model.training.config`)
├── StateMismatch     a recurrent state that does not belong to this model or this size
└── DeviceError       the device asked for is not there, or ran out of memory
"""


class ModelError(Exception):
    """Base of this package's errors."""


class UnknownModel(ModelError):
    """No model of that name."""


class MissingWeights(ModelError):
    """The model's weights file is not here."""


class BadWeights(ModelError):
    """A weights file that is not what it should be."""


class StateMismatch(ModelError):
    """A recurrent state that does not belong to this model, or to frames of this size."""


class DeviceError(ModelError):
    """The device asked for is not there, or ran out of memory."""
