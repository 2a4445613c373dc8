"""Language models with random weights, made here: real inference without a download.

Place:   gives LlamaServer the file to serve; callers build prompts of known length from WORDS.
Rule:    a file is made once per set of parameters and kept in the user's cache directory, outside
         the tree. The vocabulary is closed: a word of WORDS with the space before it is one token, any
         other character is a token of its own. Only whole words are ever generated and the end of
         the sequence never is, so a generation ends exactly at the limit of its request.
"""

import hashlib
import os
import random
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import gguf
    import numpy as np

FORMAT = 1
"""Part of every file's name: raise it when the same parameters give another file."""

WORDS = tuple(
    """
    about above across after again air all along also always among animal answer apple area arm around ask
    atom autumn away baby back bag ball bank base basket beach bean bear bed before begin bell below bench
    best better between bird black blue board boat body bone book both bottle bottom box branch bread
    bridge bright bring brother brown build burn bus busy butter cake call camp can candle car card care
    carry castle cat catch chain chair chance change chase cheese child choose circle city class clean clear
    clock close cloud coal coast coat coffee cold color come cook cool copper copy corn corner cotton count
    country course cover cow cross crowd cup cut dance dark day deep desk dinner dog door down draw dream
    dress drink drive drop dry dust each ear early earth east easy eat egg eight end engine enough evening
    every eye face fall family far farm fast father feel field find fine finger fire first fish five floor
    flower fly follow food foot forest forget four fox free fresh friend from front fruit full game garden
    gate gather gift girl give glass goat gold good grain grass gray great green ground group grow guess
    guide hall hammer hand happy harbor hard hat have hay head hear heart heat heavy help here high hill
    hold home honey horse hot hour house how hundred ice idea inside iron island job join juice jump just
    keep key kind king kitchen knee know lake lamp land large last late laugh lead leaf learn leave left leg
    lemon letter level library light like line lion list listen little live long look low lunch machine
    make man map mark market matter meal mean measure meat meet metal middle milk mind mirror money month
    moon morning most mother mountain mouse move much music name near neck need nest never new next night
    nine noise north nose note number ocean often oil old once one onion only open orange order other over
    own page paint pair paper park part past path peace pencil people picture piece pine place plain plan
    plant plate play point pond pool port post potato power price print public pull push queen quick quiet
    rabbit rain read ready red remember rest rice right ring river road rock roof room root rope rose round
    row run sail salt same sand say school sea season seat second see seed seven shade shape sheep shelf
    ship shirt shoe shop short show side silver simple sing sister sit six skin sky sleep slow small smile
    snow soap soft some song soon sound soup south space spring square star start station stay steel step
    stone stop storm story street strong student sugar summer sun sure sweet swim table tail take talk tall
    teach ten thank thing think three through ticket time tin today together tomato tool top town trade
    train tree trip true turn two under until up use valley very village visit voice wait walk wall warm
    wash watch water wave way weather week well west wheel where white wide wild wind window wing winter
    wire with wood word work world write yard year yellow yes young
    """.split()
)

CONTROL = ("<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>")
CHAT_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """The shape of a llama-architecture model; ``dim`` must be a multiple of ``heads``."""

    layers: int
    dim: int
    feed_forward: int
    heads: int
    context: int = 32_768
    """The longest sequence [tokens] that the file promises; a server may be started with less."""
    seed: int = 0


TINY = Size(layers=2, dim=64, feed_forward=128, heads=4)
"""A few MB; well under a millisecond per token: for tests of behaviour."""

STEADY = Size(layers=8, dim=512, feed_forward=1536, heads=8)
"""116 MB; on one core 4-8 ms per generated and 1-1.5 ms per prompt token: for queues, TTFT, affinity."""


def model_file(size: Size = TINY) -> Path:
    """The GGUF file of this size, made on first use."""
    key = hashlib.sha256(repr((FORMAT, sorted(asdict(size).items()))).encode()).hexdigest()[:12]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fleet-epp" / "models"
    path = cache / f"random-{size.layers}x{size.dim}-{key}.gguf"
    if path.exists():
        return path
    cache.mkdir(parents=True, exist_ok=True)
    # Whoever is first wins; nobody ever sees half a file.
    with tempfile.TemporaryDirectory(dir=cache) as folder:
        half = Path(folder) / "model.gguf"
        _write(half, size)
        half.replace(path)
    return path


def text(tokens: int, chance: random.Random) -> str:
    """A prompt of exactly so many tokens for these models (not counting what a chat template adds)."""
    return "".join(f" {word}" for word in chance.choices(WORDS, k=tokens))


def _byte_letters() -> list[str]:
    """The letter that stands for each byte in a byte-level vocabulary (GPT-2's convention)."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    substitutes = iter(range(0x100, 0x200))
    return [chr(byte if byte in printable else next(substitutes)) for byte in range(256)]


def _merges(letters: list[str]) -> Iterator[tuple[str, str]]:
    """Merge rules that build every word from its left end, shared beginnings once.

    All of them extend a piece that begins with the space, so no rule ever competes with another.
    """
    seen = set()
    for word in WORDS:
        piece, *rest = (letters[byte] for byte in f" {word}".encode())
        for letter in rest:
            if (piece, letter) not in seen:
                seen.add((piece, letter))
                yield piece, letter
            piece += letter


def _write(path: Path, size: Size) -> None:
    import gguf  # noqa: PLC0415 - half a second, and only when a file is made

    letters = _byte_letters()
    merges = list(_merges(letters))
    tokens = [*CONTROL, *letters, *(left + right for left, right in merges)]
    words = {"".join(letters[byte] for byte in f" {word}".encode()) for word in WORDS}

    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_name("random-llama")
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    _add_shape(writer, size)
    _add_tokenizer(writer, tokens, merges)
    _add_weights(writer, size, [token in words for token in tokens])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_shape(writer: "gguf.GGUFWriter", size: Size) -> None:
    writer.add_context_length(size.context)
    writer.add_embedding_length(size.dim)
    writer.add_block_count(size.layers)
    writer.add_feed_forward_length(size.feed_forward)
    writer.add_head_count(size.heads)
    writer.add_head_count_kv(size.heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(size.dim // size.heads)
    writer.add_rope_freq_base(10_000.0)


def _add_tokenizer(writer: "gguf.GGUFWriter", tokens: list[str], merges: list[tuple[str, str]]) -> None:
    import gguf  # noqa: PLC0415

    kinds = [gguf.TokenType.UNKNOWN, *[gguf.TokenType.CONTROL] * (len(CONTROL) - 1)]
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types(kinds + [gguf.TokenType.NORMAL] * (len(tokens) - len(CONTROL)))
    writer.add_token_merges([f"{left} {right}" for left, right in merges])
    writer.add_unk_token_id(CONTROL.index("<unk>"))
    writer.add_bos_token_id(CONTROL.index("<s>"))
    writer.add_eos_token_id(CONTROL.index("</s>"))
    writer.add_add_bos_token(True)
    writer.add_chat_template(CHAT_TEMPLATE)


def _add_weights(writer: "gguf.GGUFWriter", size: Size, spoken: list[bool]) -> None:
    """Random matrices, but for dimension 0.

    It carries a constant from the embedding to the output, untouched by the layers; there a large
    negative weight silences every token that is not to be ``spoken``.
    """
    import numpy as np  # noqa: PLC0415

    chance = np.random.default_rng(size.seed)

    def random_matrix(rows: int, columns: int, *, scale: float) -> "np.typing.NDArray[np.float32]":
        return chance.standard_normal((rows, columns), dtype=np.float32) * np.float32(scale)

    embedding = random_matrix(len(spoken), size.dim, scale=1.0)
    embedding[:, 0] = 8.0
    output = random_matrix(len(spoken), size.dim, scale=0.35)
    output[:, 0] = [0.0 if one else -20.0 for one in spoken]
    ones = np.ones(size.dim, np.float32)
    writer.add_tensor("token_embd.weight", embedding)
    writer.add_tensor("output_norm.weight", ones)
    writer.add_tensor("output.weight", output)
    square, up, down = (size.dim, size.dim), (size.feed_forward, size.dim), (size.dim, size.feed_forward)
    shapes = {f"attn_{part}": square for part in ("q", "k", "v", "output")}
    shapes |= {"ffn_gate": up, "ffn_up": up, "ffn_down": down}
    for layer in range(size.layers):
        writer.add_tensor(f"blk.{layer}.attn_norm.weight", ones)
        writer.add_tensor(f"blk.{layer}.ffn_norm.weight", ones)
        for name, (rows, columns) in shapes.items():
            matrix = random_matrix(rows, columns, scale=columns**-0.5)
            if name in {"attn_output", "ffn_down"}:  # what a layer adds to the stream
                matrix[0, :] = 0
            writer.add_tensor(f"blk.{layer}.{name}.weight", matrix)
