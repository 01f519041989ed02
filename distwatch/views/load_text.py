"""Model loads in words, each with its tone: for the terminal and for reports."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from distwatch.diagnosis.facts.loads import LoadStatus
from distwatch.state.loads import Outstanding, Placement
from distwatch.state.quantities import bytes_text, count_of, seconds
from distwatch.views.load_groups import LoadGroup
from distwatch.views.load_timeline import Span, spans_of

Tone = Literal["", "strong", "muted", "faint", "good", "late", "bad", "alarm", "now", "odd"]
"""`now` and `odd` distinguish neighbouring phases."""
Words = list[tuple[str, Tone]]
UNKNOWN = "–"
"""Not observed: never shown as zero."""
_LATE_S = 10


def plain(words: Words) -> str:
    """The words without their tones."""
    return "".join(text for text, _ in words)


def dotted(parts: Iterable[Words]) -> Words:
    """The parts, with faint dots between them."""
    words: Words = []
    for part in parts:
        words += [(" · ", "faint"), *part] if words else part
    return words


def size_text(count: int | None) -> str:
    """`1.5 GiB`; `–` where it was not observed."""
    return bytes_text(count, UNKNOWN, 100)


def outcome(group: LoadGroup) -> Words:
    """The status in words: `moved 42 s ago, began 58 s ago`, `✓ loaded in 3.1 s`, `✗ failed after 3.1 s`."""
    load, took = group.load, seconds(group.load.took_s)
    if load.under_way:
        moved: Tone = "late" if load.still_s > _LATE_S else ""
        return [
            (f"moved {seconds(load.still_s)} ago", moved),
            (f", began {took} ago", "muted"),
        ]
    if load.cut_off:
        end = f"✗ its process ended after {took}, {seconds(load.still_s)} after it last moved"
        return [(end, "bad")]
    if (quickest := seconds(group.quickest_s)) != took:
        took = f"{quickest} to {took}"
    if load.error:
        return [(f"✗ failed after {took}", "bad")]
    return [("✓ ", "good"), (f"loaded in {took}", "muted")]


def shown_spans(load: LoadStatus) -> list[Span]:
    """The phases, and any time between them of more than a second."""
    return [span for span in spans_of(load) if span.number or span.took_s > 1]


def span_tone(span: Span) -> Tone:
    """The tone that sets a phase apart from its neighbours."""
    if span.error:
        return "bad"
    if not span.number:
        return "faint"
    return "now" if span.under_way else "odd" if span.number % 2 else "muted"


def span_words(span: Span, load: LoadStatus) -> Words:
    """`4 shards 45 s so far`, `4 shards 45 s ✗ OSError: …`; the load's own error is shown elsewhere."""
    if not span.number:
        return [(f"outside all phases {seconds(span.took_s)}", "faint")]
    words: Words = [
        (f"{span.number} {span.name} ", span_tone(span)),
        (seconds(span.took_s), "muted"),
    ]
    if span.under_way:
        words.append((" so far", "muted"))
    if span.error:
        words.append((" ✗" if span.error == load.error else f" ✗ {one_line(span.error)}", "bad"))
    return words


def counted(load: LoadStatus) -> Words:
    """`120 of 723 · 12.1 GiB of 131 GiB · 1.2 GiB/s`."""
    total, speed = load.parameters_total, load.bytes_per_s
    parts: list[Words] = [[(f"{size_text(load.bytes)} of {size_text(load.bytes_total)}", "")]]
    if total or load.parameters:  # files are fetched before there are any
        parts.insert(0, [(f"{load.parameters} of {UNKNOWN if total is None else total}", "")])
    rate = UNKNOWN if speed is None else f"{size_text(int(speed))}/s"
    return dotted([*parts, [(rate, "late" if speed == 0 else "")]])


def wait_label(load: LoadStatus) -> str:
    return "waits in" if load.under_way else "was in"


def wait_words(load: LoadStatus, one: Outstanding) -> Words:
    """`a request for 42 s, attempt 3`."""
    waited = load.waited_s(one)
    kind = "a lock file" if one.waiting == "lock" else f"a {one.waiting}"
    late: Tone = "late" if waited > _LATE_S else ""
    words: Words = [(kind, "strong"), (f" for {seconds(waited)}", late)]
    return [*words, (f", attempt {one.attempts}", "late")] if one.attempts > 1 else words


def model_words(placement: Placement) -> Words:
    """`LlamaForCausalLM · bfloat16 131 GiB · 2 tied names · generation config loaded`."""
    parts: list[Words] = [[(placement.model_class, "strong")]]
    parts += [[(f"{dtype} {size_text(size)}", "")] for dtype, size in placement.dtypes.items()]
    if placement.tied:
        parts.append([(count_of(placement.tied, "tied name"), "muted")])
    if placement.generation:
        tone: Tone = "late" if placement.generation == "lost" else "muted"
        parts.append([(f"generation config {placement.generation}", tone)])
    return dotted(parts)


def offload_words(placement: Placement) -> Words:
    """`512 MiB in ram · 1.5 GiB on disk in /scratch/offload`; nothing where nothing is offloaded."""
    parts: list[Words] = []
    if ram := placement.bytes_on("ram"):
        parts.append([(f"{size_text(ram)} in ram", "late")])
    if disk := placement.bytes_on("disk"):
        places = f" in {', '.join(placement.offload_places)}" if placement.offload_places else ""
        parts.append([(f"{size_text(disk)} on disk{places}", "late")])
    return dotted(parts)


def leaked_words(placement: Placement) -> Words:
    """`✗ 3 parameters that nothing will load: lm_head.weight, …`; nothing where there are none."""
    count = placement.leaked_count
    more = ", …" if count > len(placement.leaked) else ""
    head = f"✗ {count_of(count, 'parameter')} that nothing will load: "
    return [(head, "alarm"), (f"{', '.join(placement.leaked)}{more}", "")] if count else []


def one_line(text: str | None) -> str:
    """The text without line breaks."""
    return " ".join((text or "").split())
