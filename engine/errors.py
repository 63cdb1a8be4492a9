"""Typed errors. Each message is one sentence or two: what was expected, what came, what to do."""


class HotpathError(Exception):
    """Base of every error this pack raises for a user to read."""


class WeightsMissing(HotpathError):
    """A weight file that was asked for is not where it should be."""


class WeightsInvalid(HotpathError):
    """A weight file is damaged, of another format, or holds values that cannot be used."""


class ConceptMismatch(HotpathError):
    """A concept was made for another base network."""


class NotWritten(HotpathError):
    """A file could not be written; what was there before is untouched."""


class InvalidInput(HotpathError):
    """An argument or picture is outside what the operation takes."""


class NotFinite(HotpathError):
    """A network gave NaN or infinity, mostly because its numbers pass what a 16-bit format holds."""


class DownloadFailed(HotpathError):
    """A download did not bring its file; what came and can be resumed is kept beside where the file belongs."""
