"""Every error the package raises on purpose.

EdgeAgentError
├── UsageError              the person can fix it before anything runs; exit code 2
│   ├── ConfigError         a setting is missing, unknown or malformed
│   ├── ModelNotFound       no manifest, file or repository by that name
│   ├── ModelLoadError      the file is there and cannot be run
│   ├── TemplateError       the model's chat template is missing or cannot carry tools
│   ├── SchemaRefused       a tool's schema asks for what the grammar cannot enforce
│   ├── ScenarioError       a scenario folder or its data cannot be used
│   ├── ConversionError     a checkpoint or GGUF file cannot be converted
│   └── EvaluationError     an evaluation's data or predictions cannot be used
├── EngineError             the local model failed while it was running
│   ├── EngineDied          the worker process is gone; the conversation is not
│   └── ContextFull         prompt and reserve do not fit in the context
├── RemoteError             the larger model did not give a usable answer
│   ├── RemoteOffline       DNS, connect or TLS failed: nothing was reached
│   ├── RemoteRefused       401, 402, 403, 404: the configuration is wrong
│   ├── RemoteLimited       429; carries how long to wait
│   ├── RemoteTimeout       reached, and too slow for the turn's budget
│   └── RemoteBroken        answered with something that is not a valid call
├── DownloadFailed          a fetch broke off, or brought something else; running it again resumes
└── StoreError              a database cannot be read or written

A message says what was being done, with which value, and what to do next.
"""


class EdgeAgentError(Exception):
    """Something the package can explain to the person in one line."""

    exit_code = 1
    """What the command line exits with when this error reaches it."""


class UsageError(EdgeAgentError):
    """The person can fix it before anything runs."""

    exit_code = 2


class ConfigError(UsageError):
    """A setting is missing, unknown or malformed."""


class ModelNotFound(UsageError):
    """No manifest, file or repository answers to the name."""


class ModelLoadError(UsageError):
    """The model file is there and cannot be run."""


class TemplateError(UsageError):
    """The model's chat template is missing or cannot carry tools."""


class SchemaRefused(UsageError):
    """A tool's schema asks for what the grammar cannot enforce."""

    def __init__(self, tool: str, reason: str) -> None:
        super().__init__(f"tool {tool!r}: {reason}; change its schema or leave the tool out")
        self.tool = tool
        self.reason = reason


class ScenarioError(UsageError):
    """A scenario folder or its data cannot be used."""


class ConversionError(UsageError):
    """A checkpoint or GGUF file cannot be converted."""


class WriteFailed(ConversionError):
    """The file that was to be made cannot be written: no room, no rights, no such folder."""

    exit_code = 1


class EvaluationError(UsageError):
    """An evaluation's data, predictions or options cannot be used."""


class EngineError(EdgeAgentError):
    """The local model failed while it was running."""


class EngineDied(EngineError):
    """The worker process is gone; the conversation is not."""


class ContextFull(EngineError):
    """Prompt and reserve do not fit in the context."""

    def __init__(self, n_prompt: int, n_reserve: int, n_ctx: int) -> None:
        super().__init__(
            f"the prompt has {n_prompt} tokens and {n_reserve} are kept for the answer, "
            f"but the context holds {n_ctx}; shorten the message or raise model.n_ctx"
        )
        self.n_prompt = n_prompt
        self.n_reserve = n_reserve
        self.n_ctx = n_ctx


class RemoteError(EdgeAgentError):
    """The larger model did not give a usable answer."""


class RemoteOffline(RemoteError):
    """Nothing was reached: DNS, connect or TLS failed."""


class RemoteRefused(RemoteError):
    """The server turned the request down for good (401, 402, 403, 404)."""


class RemoteLimited(RemoteError):
    """The server asked to slow down (429)."""

    def __init__(self, message: str, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class RemoteTimeout(RemoteError):
    """The server was reached and was too slow for the turn's budget."""


class RemoteBroken(RemoteError):
    """The server answered with something that is not a valid call."""


class StoreError(EdgeAgentError):
    """A database cannot be read or written."""


class DownloadFailed(EdgeAgentError):
    """A fetch broke off or brought something else; running it again resumes."""
