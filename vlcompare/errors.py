"""Every error that vlcompare raises on purpose, with one sentence that says what was wrong and what to do.

    VLCompareError
    |-- RequestError          the question, its task, or an option cannot be used (also a ValueError)
    |-- ImageError            the picture is refused: too large, broken, or of another format
    |-- CheckpointError       files that are missing, damaged, or not a checkpoint of either family
    |   |-- HubError          the Hub: not found, gated, offline, or the disk is full
    |-- DeviceMemoryError     the device has too little memory for what was asked
    |-- SampleError           a data set, a run folder, or a row in one cannot be read

Any other exception is a defect of this package. Every message can be shown to a user unchanged.
"""


class VLCompareError(Exception):
    """Base of all errors raised on purpose; `str(error)` is one sentence for the user.

    field: the id of the page's field that the error is about; "" for none.
    """

    field: str = ""


class RequestError(VLCompareError, ValueError):
    """A request that cannot be asked: unknown task, missing text, an option out of range."""


class ImageError(VLCompareError):
    """A picture that is refused: too large, broken, or of another format."""


class CheckpointError(VLCompareError):
    """A checkpoint that cannot be loaded; names the file and the key."""


class HubError(CheckpointError):
    """A checkpoint that could not be fetched from the Hub."""


class DeviceMemoryError(VLCompareError):
    """Too little memory on the device; says how much is needed and how much there is."""


class SampleError(VLCompareError):
    """A sample, a data set, or a run folder that cannot be read; names the file and the line."""


def reason(error: Exception) -> str:
    """Why a file could not be used, within a sentence: the system's words, without its number and the path again."""
    return getattr(error, "strerror", None) or str(error)
