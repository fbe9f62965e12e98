/** The patrol: when it last looked, what it found and what is done about it, and its rounds. */
import { useQuery } from "@tanstack/react-query";
import { useState } from "react";

import {
  actOnFinding,
  getPatrol,
  listFindings,
  listRuns,
  runPatrol,
  type FindingAction,
  type FindingOut,
  type PatrolRunOut,
} from "../../api/operations";
import { Confirm } from "../../components/dialog";
import { Select } from "../../components/field";
import { when } from "../../i18n";
import { useAct } from "./act";
import { Filters } from "./filters";
import { KEY, LOOK, Listed, usePages } from "./listed";
import { FINDING_KINDS, type Change, type OperationsSearch } from "./search";
import { Table, type Column } from "./table";
import { useOperationsTexts } from "./texts";
import figureCss from "./figures.module.css";
import { problemText } from "../../i18n/problems";

export function Patrol({ search, onChange }: { search: OperationsSearch; onChange: Change }) {
  return (
    <>
      <Glance />
      <Findings search={search} onChange={onChange} />
      <Runs />
    </>
  );
}

function Glance() {
  const { t, o, language } = useOperationsTexts();
  const { act, busy } = useAct();
  const found = useQuery({
    queryKey: [KEY, "patrol"],
    queryFn: ({ signal }) => getPatrol(signal),
    refetchInterval: LOOK,
    staleTime: LOOK,
  });
  const patrol = found.data;
  return (
    <section className="panel">
      <div className="row between">
        <h2>{o.tabs.patrol}</h2>
        <div className="row">
          <button
            type="button"
            className="primary"
            disabled={busy}
            onClick={() => void act(() => runPatrol(false), o.asked)}
          >
            {o.run}
          </button>
          <button type="button" disabled={busy} onClick={() => void act(() => runPatrol(true), o.dryAsked)}>
            {o.dryRun}
          </button>
        </div>
      </div>
      {found.isPending ? <p className="dim">{t.loading}</p> : null}
      {found.isError && !patrol ? (
        <p className="notice bad" role="alert">
          {problemText(found.error, t)}
        </p>
      ) : null}
      {patrol?.stale && patrol.last_finished_at ? <p className="notice warn">{o.stale}</p> : null}
      {patrol ? (
        <>
          <p>{patrol.last_finished_at ? o.lastRound(when(patrol.last_finished_at, language)) : o.noRound}</p>
          <dl className={figureCss.figures}>
            {(Object.keys(o.findingCounts) as (keyof typeof o.findingCounts)[]).map((name) => (
              <div key={name} data-bad={patrol.open_findings[name] > 0 || undefined}>
                <dt>{o.findingCounts[name]}</dt>
                <dd>{patrol.open_findings[name]}</dd>
              </div>
            ))}
          </dl>
        </>
      ) : null}
    </section>
  );
}

function Findings({ search, onChange }: { search: OperationsSearch; onChange: Change }) {
  const { o, language } = useOperationsTexts();
  const { act, busy } = useAct();
  const [asked, setAsked] = useState<{ finding: FindingOut; action: FindingAction } | null>(null);
  const narrowed = { kind: search.kind, closed: search.closed };
  const list = usePages(["findings", narrowed], (before, signal) => listFindings(narrowed, before, signal));
  const columns: Column<FindingOut>[] = [
    {
      name: o.kind,
      cell: (finding) => (
        <span className={`state ${finding.resolved_at ? "" : finding.kind === "missing" ? "bad" : "warn"}`}>
          {o.kinds[finding.kind]}
        </span>
      ),
    },
    {
      name: o.object,
      kind: "wide",
      cell: (finding) => (
        <>
          <code>{finding.object_key}</code>
          {facts(finding) ? <div className="dim">{facts(finding)}</div> : null}
        </>
      ),
    },
    { name: o.found, cell: (finding) => <time dateTime={finding.found_at}>{when(finding.found_at, language)}</time> },
    {
      name: o.actions,
      kind: "actions",
      cell: (finding) =>
        finding.resolved_at ? (
          <span>
            {o.resolutions[finding.resolution ?? ""] ?? finding.resolution}{" "}
            {finding.resolved_by ? <span className="dim">{o.by(finding.resolved_by)}</span> : null}
          </span>
        ) : (
          <span className="row">
            {finding.actions.map((action) => (
              <button
                key={action}
                type="button"
                className={action === "trash" ? "danger" : undefined}
                disabled={busy}
                aria-label={o.actOn[action](finding.object_key)}
                onClick={() => setAsked({ finding, action })}
              >
                {o.act[action]}
              </button>
            ))}
          </span>
        ),
    },
  ];
  return (
    <section className="panel" data-list="findings">
      <h2>{o.findings}</h2>
      <Filters>
        <Select
          label={o.kind}
          value={search.kind ?? ""}
          options={[["", o.any], ...FINDING_KINDS.map((kind) => [kind, o.kinds[kind]] as const)]}
          onChange={(value) => onChange({ kind: (value || undefined) as OperationsSearch["kind"] })}
        />
        <label className="check">
          <input
            type="checkbox"
            checked={search.closed ?? false}
            onChange={(event) => onChange({ closed: event.target.checked || undefined })}
          />
          {o.resolved}
        </label>
      </Filters>
      <Listed list={list} empty={search.kind || search.closed ? o.nothingFits : o.noFindings}>
        {(rows) => (
          <Table
            label={o.findings}
            columns={columns}
            rows={rows}
            keyOf={(finding) => finding.id}
            marks={(finding) => ({ "data-finding": finding.id, "data-kind": finding.kind })}
          />
        )}
      </Listed>
      {asked ? (
        <Confirm
          title={o.actAsk[asked.action](asked.finding.object_key)}
          action={o.act[asked.action]}
          onNo={() => setAsked(null)}
          onYes={() => {
            const { finding, action } = asked;
            setAsked(null);
            void act(() => actOnFinding(finding.id, action), o.acted);
          }}
        />
      ) : null}
    </section>
  );
}

/** What the finding's own facts say, as name and value. */
function facts(finding: FindingOut): string {
  return Object.entries(finding.detail)
    .filter(([, value]) => ["string", "number"].includes(typeof value))
    .map(([name, value]) => `${name}: ${String(value)}`)
    .join(", ");
}

const COUNTS = ["found", "missing", "suspected", "recovered", "mismatched", "undecided"] as const;
const RUN_PILLS = { running: "starting", finished: "ok", stopped: "bad" } as const;

function Runs() {
  const { o, language } = useOperationsTexts();
  const list = usePages(["runs"], listRuns);
  const columns: Column<PatrolRunOut>[] = [
    { name: o.started, cell: (run) => <time dateTime={run.started_at}>{when(run.started_at, language)}</time> },
    {
      name: o.kind,
      cell: (run) => (
        <>
          {o.runKinds[run.kind]}
          {run.dry_run ? <div className="dim">{o.onlyLooked}</div> : null}
          {run.requested_by ? <div className="dim">{o.by(run.requested_by)}</div> : null}
        </>
      ),
    },
    {
      name: o.state,
      cell: (run) => (
        <>
          <span className={`state ${RUN_PILLS[run.state]}`}>{o.runStates[run.state]}</span>
          {run.stop_code ? <div className="dim">{run.stop_code}</div> : null}
        </>
      ),
    },
    {
      name: o.result,
      kind: "wide",
      cell: (run) => (
        <>
          {o.progress(run.checked, run.due)}
          <div className="dim">
            {COUNTS.filter((name) => run[name])
              .map((name) => `${o.counts[name]} ${run[name]}`)
              .join(", ")}
          </div>
          {run.detail ? <div className="dim">{run.detail}</div> : null}
        </>
      ),
    },
    {
      name: o.ended,
      cell: (run) => (run.ended_at ? <time dateTime={run.ended_at}>{when(run.ended_at, language)}</time> : "–"),
    },
  ];
  return (
    <section className="panel" data-list="runs">
      <h2>{o.runs}</h2>
      <Listed list={list} empty={o.noRuns}>
        {(rows) => (
          <Table
            label={o.runs}
            columns={columns}
            rows={rows}
            keyOf={(run) => run.id}
            marks={(run) => ({ "data-run": run.state })}
          />
        )}
      </Listed>
    </section>
  );
}
