"""The errors a user can cause, each a single line that says what to do."""


class DecantError(Exception):
    """Base of every error whose message is meant for the user; the CLI prints it without a traceback."""


class ModelError(DecantError):
    """A model folder or name that cannot be loaded, or whose description cannot be honoured."""


class UnsupportedModelError(ModelError):
    """An architecture that cannot be turned into the requested encoder without a wrong vector."""


class InputError(DecantError):
    """Texts or options of one call that cannot be encoded as asked."""


class VerificationError(ModelError):
    """A loaded model broke an invariant; its vectors must not be used."""
