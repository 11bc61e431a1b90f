"""Every error fluoroscope raises on purpose, in one tree.

A message says what was wrong, what was expected and how to mend it. Each class is also a built-in
kind, so code that knows nothing of fluoroscope still catches it. Rooms add their own below these.

    FluoroscopeError
    ├── OptionError (ValueError)                 an option outside its range
    ├── MissingPackageError (ImportError)        an optional package is not installed
    ├── ModelError
    │   ├── ModelNotFoundError (LookupError)     no such directory, file, hub name or package
    │   ├── UnsafeModelError (ValueError)        remote code or pickles not asked for by name
    │   ├── DamagedModelError (OSError)          a digest does not hold, or a file is cut short
    │   └── NotEnoughMemoryError (MemoryError)   the weights will not fit
    ├── SiteError
    │   ├── UnknownSiteError (LookupError)       the model has no such site
    │   ├── UnsupportedArchitectureError (ValueError)  no table, and structure gave no answer
    │   ├── SiteCheckError (RuntimeError)        a site's values disagree with the model's own
    │   └── SiteNotFiredError (RuntimeError)     a forward pass ended without reaching the site
    ├── CorpusError (ValueError)                 text that cannot be read or is not there
    ├── RunFileError (OSError)
    │   ├── NotARunFileError                     some other file
    │   ├── SchemaVersionError                   written by a newer or unknown schema
    │   ├── DamagedRunFileError                  digests, lengths or links do not hold
    │   ├── RunExistsError                       the output exists and is not to be resumed
    │   └── RunMismatchError (ValueError)        another model or corpus than the file's
    ├── TooFewTokensError (ValueError)           an estimate would be noise
    ├── MissingResultError (LookupError)         not run yet; names the call that adds it
    └── IncompleteError (RuntimeError)           stopped early, all so far kept; resumable
"""


class FluoroscopeError(Exception):
    """Base of every error raised on purpose."""


class OptionError(FluoroscopeError, ValueError):
    """An option has an impossible value, or two options contradict each other."""


class MissingPackageError(FluoroscopeError, ImportError):
    """An optional package is needed and not installed; the message gives the pip line."""


class ModelError(FluoroscopeError):
    """A model could not be opened or used."""


class ModelNotFoundError(ModelError, LookupError):
    """Nothing by that name: no directory, no GGUF file, nothing cached from a hub, no package."""


class UnsafeModelError(ModelError, ValueError):
    """Opening would run code from the checkpoint; it must be asked for by name."""


class DamagedModelError(ModelError, OSError):
    """Model files are cut short or do not match their digest."""


class NotEnoughMemoryError(ModelError, MemoryError):
    """The weights need more memory than is free."""


class SiteError(FluoroscopeError):
    """A site could not be named, found or trusted."""


class UnknownSiteError(SiteError, LookupError):
    """The model has no site of that name; the message lists near matches."""


class UnsupportedArchitectureError(SiteError, ValueError):
    """No family table fits and the structure gave no mapping that passes the self-check."""


class SiteCheckError(SiteError, RuntimeError):
    """The self-check found a site whose values disagree with the model's own hidden states."""


class SiteNotFiredError(SiteError, RuntimeError):
    """A forward pass ended without passing a requested site."""


class CorpusError(FluoroscopeError, ValueError):
    """Text that cannot be read, is empty, or has another format than said."""


class RunFileError(FluoroscopeError, OSError):
    """A run file could not be written or read."""


class NotARunFileError(RunFileError):
    """The path does not hold a fluoroscope run file."""


class SchemaVersionError(RunFileError):
    """The run file follows a schema this version does not know."""


class DamagedRunFileError(RunFileError):
    """A digest, a length or a link of the run file does not hold."""


class RunExistsError(RunFileError):
    """The output exists already and may be neither resumed nor overwritten."""


class RunMismatchError(RunFileError, ValueError):
    """The run file came from another model, tokenizer, corpus or set of options."""


class TooFewTokensError(FluoroscopeError, ValueError):
    """Too few tokens or documents for an estimator; the message says how many it needs."""


class MissingResultError(FluoroscopeError, LookupError):
    """The run file does not hold this result; the message names the command that adds it."""


class IncompleteError(FluoroscopeError, RuntimeError):
    """Work stopped early (budget, disk, interrupt); what is done is kept and can be resumed."""
