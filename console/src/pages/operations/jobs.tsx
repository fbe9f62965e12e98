/** Background jobs: which wait, which failed and why; again, or never. */
import { useState } from "react";

import { cancelJob, listJobs, retryJob, type JobOut } from "../../api/operations";
import { Confirm } from "../../components/dialog";
import { Select } from "../../components/field";
import { when } from "../../i18n";
import { useAct } from "./act";
import { FilterField } from "./filter-field";
import { Filters } from "./filters";
import { Listed, usePages } from "./listed";
import { JOB_STATES, type Change, type OperationsSearch } from "./search";
import { Table, type Column } from "./table";
import { useOperationsTexts } from "./texts";

const PILLS: Record<JobOut["status"], string> = {
  todo: "starting",
  doing: "live",
  failed: "failed",
  cancelled: "",
  aborted: "",
  succeeded: "ok",
};

export function Jobs({ search, onChange }: { search: OperationsSearch; onChange: Change }) {
  const { o, language } = useOperationsTexts();
  const { act, busy } = useAct();
  const [cancelling, setCancelling] = useState<JobOut | null>(null);
  const narrowed = { status: search.status, task: search.task };
  const filtered = Boolean(search.status ?? search.task);
  const list = usePages(["jobs", narrowed], (before, signal) => listJobs(narrowed, before, signal));
  const columns: Column<JobOut>[] = [
    { name: o.job, kind: "number", cell: (job) => job.id },
    {
      name: o.task,
      kind: "wide",
      cell: (job) => (
        <>
          <code>{job.task}</code>
          <div className="dim">
            {Object.entries(job.args)
              .filter(([name]) => name !== "timestamp")
              .map(([name, value]) => `${name}: ${String(value)}`)
              .join(", ")}
          </div>
        </>
      ),
    },
    {
      name: o.state,
      cell: (job) => (
        <>
          <span className={`state ${PILLS[job.status]}`}>{o.jobStates[job.status]}</span>
          {job.error_code ? (
            <div className="dim">
              <code>{job.error_code}</code> {job.error_detail}
            </div>
          ) : null}
        </>
      ),
    },
    { name: o.attempts, kind: "number", cell: (job) => job.attempts },
    {
      name: o.changed,
      cell: (job) => (
        <>
          {job.changed_at ? <time dateTime={job.changed_at}>{when(job.changed_at, language)}</time> : "–"}
          {job.scheduled_at && job.status === "todo" ? (
            <div className="dim">
              {o.due}: <time dateTime={job.scheduled_at}>{when(job.scheduled_at, language)}</time>
            </div>
          ) : null}
        </>
      ),
    },
    {
      name: o.actions,
      kind: "actions",
      cell: (job) =>
        job.status === "failed" ? (
          <button
            type="button"
            disabled={busy}
            aria-label={o.retryJob(job.id)}
            onClick={() => void act(() => retryJob(job.id), o.retried(job.id))}
          >
            {o.retry}
          </button>
        ) : job.status === "todo" ? (
          <button
            type="button"
            className="danger"
            disabled={busy}
            aria-label={o.cancelJobOf(job.id)}
            onClick={() => setCancelling(job)}
          >
            {o.cancelJob}
          </button>
        ) : (
          "–"
        ),
    },
  ];
  return (
    <section className="panel" data-list="jobs">
      <h2>{o.tabs.jobs}</h2>
      <Filters>
        <Select
          label={o.state}
          value={search.status ?? ""}
          options={[["", o.any], ...JOB_STATES.map((state) => [state, o.jobStates[state]] as const)]}
          onChange={(value) => onChange({ status: (value || undefined) as OperationsSearch["status"] })}
        />
        <FilterField label={o.task} value={search.task} onChange={(task) => onChange({ task })} />
        {filtered ? (
          <button type="button" className="quiet" onClick={() => onChange({ status: undefined, task: undefined })}>
            {o.clear}
          </button>
        ) : null}
      </Filters>
      <Listed list={list} empty={filtered ? o.nothingFits : o.noJobs}>
        {(rows) => (
          <Table
            label={o.tabs.jobs}
            columns={columns}
            rows={rows}
            keyOf={(job) => job.id}
            marks={(job) => ({ "data-job": job.id, "data-status": job.status })}
          />
        )}
      </Listed>
      {cancelling ? (
        <Confirm
          title={o.cancelAsk(cancelling.id, cancelling.task)}
          action={o.cancelJob}
          onNo={() => setCancelling(null)}
          onYes={() => {
            const { id } = cancelling;
            setCancelling(null);
            void act(() => cancelJob(id), o.cancelled(id));
          }}
        />
      ) : null}
    </section>
  );
}
