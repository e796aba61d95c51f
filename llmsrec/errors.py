"""The exceptions of training and data preparation; each text names the file and the remedy.

LLMSRecError
├── DataError         a data file, or a prepared dataset, that cannot be used
├── PackageError      a package file that cannot be fetched, or is not the pinned one
├── OutputError       a place that cannot be written, or that another process is writing
├── TrainingError     a training whose options or loss cannot be used
└── CheckpointError   a checkpoint, or the state of a training, that cannot be used
"""


class LLMSRecError(Exception):
    """What llmsrec raises on purpose; the text is meant for the caller."""


class DataError(LLMSRecError):
    pass


class PackageError(LLMSRecError):
    pass


class OutputError(LLMSRecError, OSError):
    """An OSError too, which is what those who only write a file expect."""


class TrainingError(LLMSRecError):
    pass


class CheckpointError(LLMSRecError):
    pass
