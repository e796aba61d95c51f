"""Makes answers: the last step of a request, and the one place where its stages are timed."""

import time

from engine.batching.run import Outcome
from engine.live import Rendered
from engine.request import RankedItem, Recommendation, StageTimings


def assemble(rendered: Rendered, outcome: Outcome) -> Recommendation:
    generation, rendering = rendered.generation, rendered.rendering
    item_ids, titles = generation.catalogue.item_ids, generation.catalogue.titles
    rows, scores = (values.tolist() for values in outcome.ranking)
    return Recommendation(
        items=[
            RankedItem(item_ids[row], titles[row], score)
            for row, score in zip(rows, scores, strict=True)
        ],
        model_version=generation.model_version,
        catalogue_version=generation.catalogue.version,
        ignored=rendering.ignored,
        num_used_interactions=rendering.num_used_interactions,
        num_prompt_tokens=len(rendered.query.prompt),
        micro_batch=outcome.micro_batch,
        timings=StageTimings(
            render_ms=(rendered.finished - rendered.started) * 1e3,
            queue_ms=(outcome.begun - rendered.finished) * 1e3,
            encode_ms=outcome.encode_ms,
            retrieve_ms=outcome.retrieve_ms,
            total_ms=(time.monotonic() - rendered.received) * 1e3,
        ),
    )
