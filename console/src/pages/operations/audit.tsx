/** Who did what: narrowed, page by page, and as a file. */
import { auditCsv, listAudit, type EntryOut } from "../../api/operations";
import { Field, Select } from "../../components/field";
import { when } from "../../i18n";
import { FilterField } from "./filter-field";
import { Filters } from "./filters";
import { Listed, usePages } from "./listed";
import { RESULTS, type Change, type OperationsSearch } from "./search";
import { Table, type Column } from "./table";
import { useOperationsTexts } from "./texts";
import css from "./audit.module.css";

const NAMES = ["actor", "action", "room", "subject", "result", "from", "to"] as const;
const PILLS: Record<string, string | undefined> = { ok: "ok", refused: "warn", failed: "bad" };

export function Audit({ search, onChange }: { search: OperationsSearch; onChange: Change }) {
  const { o } = useOperationsTexts();
  const narrowed = Object.fromEntries(NAMES.map((name) => [name, search[name]]));
  const filtered = NAMES.some((name) => search[name] !== undefined);
  const list = usePages(["audit", narrowed], (before, signal) => listAudit(narrowed, before, signal));
  const columns: Column<EntryOut>[] = [
    { name: o.time, cell: (entry) => <Occurred entry={entry} /> },
    {
      name: o.actor,
      cell: (entry) => (
        <>
          {entry.actor ?? <span className="dim">{o.nobody}</span>}
          {entry.detail.as_operator ? <div className="dim">{o.asOperator}</div> : null}
        </>
      ),
    },
    { name: o.action, kind: "word", cell: (entry) => <code>{entry.action}</code> },
    {
      name: o.subject,
      kind: "wide",
      cell: (entry) => (
        <>
          {entry.subject ?? "–"}
          {about(entry) ? <div className="dim">{about(entry)}</div> : null}
        </>
      ),
    },
    {
      name: o.result,
      cell: (entry) => (
        <>
          <span className={`state ${PILLS[entry.result] ?? ""}`}>{o.results[entry.result] ?? entry.result}</span>
          {entry.error_code ? <div className="dim">{entry.error_code}</div> : null}
        </>
      ),
    },
    {
      name: o.where,
      cell: (entry) => (
        <>
          {entry.ip ?? "–"}
          {entry.user_agent ? (
            <div className={`dim ${css.short}`} title={entry.user_agent}>
              {entry.user_agent}
            </div>
          ) : null}
        </>
      ),
    },
  ];
  return (
    <section className="panel" data-list="audit">
      <div className="row between">
        <h2>{o.tabs.audit}</h2>
        <a className="button" href={auditCsv(narrowed)} download="audit.csv" title={o.csvHint}>
          {o.csv}
        </a>
      </div>
      <Filters>
        <FilterField label={o.actor} hint="user:…" value={search.actor} onChange={(actor) => onChange({ actor })} />
        <FilterField
          label={o.action}
          hint={o.actionHint}
          value={search.action}
          onChange={(action) => onChange({ action })}
        />
        <FilterField label={o.room} value={search.room} onChange={(room) => onChange({ room })} />
        <Select
          label={o.result}
          value={search.result ?? ""}
          options={[["", o.any], ...RESULTS.map((one) => [one, o.results[one] ?? one] as const)]}
          onChange={(value) => onChange({ result: (value || undefined) as OperationsSearch["result"] })}
        />
        <Moment label={o.from} value={search.from} onChange={(from) => onChange({ from })} />
        <Moment label={o.to} value={search.to} onChange={(to) => onChange({ to })} />
        {filtered ? (
          <button
            type="button"
            className="quiet"
            onClick={() => onChange(Object.fromEntries(NAMES.map((name) => [name, undefined])))}
          >
            {o.clear}
          </button>
        ) : null}
      </Filters>
      <Listed list={list} empty={filtered ? o.nothingFits : o.noAudit}>
        {(rows) => (
          <Table
            label={o.tabs.audit}
            columns={columns}
            rows={rows}
            keyOf={(entry) => entry.id}
            marks={(entry) => ({ "data-action": entry.action, "data-result": entry.result })}
          />
        )}
      </Listed>
    </section>
  );
}

/** When it was done; of acts that are counted in one entry, how often, and when last. */
export function Occurred({ entry }: { entry: Pick<EntryOut, "at" | "last_at" | "times"> }) {
  const { o, language } = useOperationsTexts();
  return (
    <>
      <time dateTime={entry.at}>{when(entry.at, language)}</time>
      {entry.times > 1 ? <div className="dim">{o.repeated(entry.times, when(entry.last_at, language))}</div> : null}
    </>
  );
}

/** What the entry says beside its columns. */
function about(entry: EntryOut): string {
  return Object.entries(entry.detail)
    .filter(
      ([name, value]) =>
        name !== "as_operator" && value !== null && value !== "" && !(Array.isArray(value) && !value.length),
    )
    .map(([name, value]) => `${name}: ${typeof value === "string" ? value : JSON.stringify(value)}`)
    .join(", ");
}

/** A moment in the reader's own time; in the address it is UTC. */
function Moment({
  label,
  value,
  onChange,
}: {
  label: string;
  value: string | undefined;
  onChange: (value: string | undefined) => void;
}) {
  return (
    <Field label={label}>
      {(id) => (
        <input
          id={id}
          type="datetime-local"
          defaultValue={value ? local(value) : ""}
          key={value ?? ""}
          onBlur={(event) => {
            const { value: typed } = event.target;
            const moment = typed ? new Date(typed).toISOString() : undefined;
            if (moment !== value) onChange(moment);
          }}
          onKeyDown={(event) => {
            if (event.key === "Enter") event.currentTarget.blur();
          }}
        />
      )}
    </Field>
  );
}

function local(moment: string): string {
  const at = new Date(moment);
  return new Date(at.getTime() - at.getTimezoneOffset() * 60_000).toISOString().slice(0, 16);
}
