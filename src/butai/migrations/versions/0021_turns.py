"""The end of a job tells its queue that the next job of its turn may begin; workers would learn of it at their next look."""

from __future__ import annotations

from alembic import op

revision = "0021"
down_revision = "0020"

TURNS = """
CREATE FUNCTION butai_turn_ended() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    -- As procrastinate tells of a new job (procrastinate_notify_queue_job_inserted_v1).
    PERFORM pg_notify(
        'procrastinate_queue_v1#' || OLD.queue_name,
        json_build_object('type', 'job_inserted', 'job_id', OLD.id)::text
    );
    RETURN NULL;
END;
$$;
CREATE TRIGGER butai_turn_ended AFTER UPDATE OF status ON procrastinate_jobs
    FOR EACH ROW WHEN (OLD.status = 'doing' AND NEW.status <> 'doing' AND OLD.lock IS NOT NULL)
    EXECUTE FUNCTION butai_turn_ended();
CREATE TRIGGER butai_turn_ended_deleted AFTER DELETE ON procrastinate_jobs
    FOR EACH ROW WHEN (OLD.status = 'doing' AND OLD.lock IS NOT NULL)
    EXECUTE FUNCTION butai_turn_ended();
"""


def upgrade() -> None:
    """Nothing that waits is changed."""
    op.execute(TURNS)
