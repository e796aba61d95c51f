"""The exceptions of training and data preparation; each text names the file and the remedy.

LLMSRecError
├── DataError         a data file, or a prepared dataset, that cannot be used
├── PackageError      a package file that cannot be fetched, or is not the pinned one
└── CheckpointError   a checkpoint, or the state of a training, that cannot be used
"""


class LLMSRecError(Exception):
    """What llmsrec raises on purpose; the text is meant for the caller."""


class DataError(LLMSRecError):
    pass


class PackageError(LLMSRecError):
    pass


class TrainingError(LLMSRecError):
    pass


class CheckpointError(LLMSRecError):
    pass
