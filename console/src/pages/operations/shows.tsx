/** The shows of all rooms, on air and past. */
import { listShows, type ShowOut } from "../../api/operations";
import { clock, when } from "../../i18n";
import { platformName } from "../../live/platforms";
import { FilterField } from "./filter-field";
import { Filters } from "./filters";
import { Listed, usePages } from "./listed";
import type { Change, OperationsSearch } from "./search";
import { ShowDialog } from "./show-dialog";
import { Suspended } from "./suspended";
import { Table, type Column } from "./table";
import { useOperationsTexts } from "./texts";
import css from "./shows.module.css";

export function Shows({ search, onChange }: { search: OperationsSearch; onChange: Change }) {
  const { o } = useOperationsTexts();
  const narrowed = { room: search.room, owner: search.owner };
  const filtered = Boolean(search.room ?? search.owner);
  return (
    <>
      <Filters>
        <FilterField label={o.room} value={search.room} onChange={(room) => onChange({ room })} />
        <FilterField label={o.owner} value={search.owner} onChange={(owner) => onChange({ owner })} />
        {filtered ? (
          <button type="button" className="quiet" onClick={() => onChange({ room: undefined, owner: undefined })}>
            {o.clear}
          </button>
        ) : null}
      </Filters>
      <Part
        title={o.onAir}
        state="on_air"
        narrowed={narrowed}
        empty={filtered ? o.nothingFits : o.noOnAir}
        onChange={onChange}
      />
      <Part
        title={o.past}
        state="over"
        narrowed={narrowed}
        empty={filtered ? o.nothingFits : o.noPast}
        onChange={onChange}
      />
      <Suspended />
      {search.show ? <ShowDialog id={search.show} onClose={() => onChange({ show: undefined })} /> : null}
    </>
  );
}

function Part({
  title,
  state,
  narrowed,
  empty,
  onChange,
}: {
  title: string;
  state: "on_air" | "over";
  narrowed: { room?: string; owner?: string };
  empty: string;
  onChange: Change;
}) {
  const { t, o, language } = useOperationsTexts();
  const list = usePages(["shows", state, narrowed], (before, signal) =>
    listShows({ state, ...narrowed }, before, signal),
  );
  const columns: Column<ShowOut>[] = [
    {
      name: o.room,
      kind: "wide",
      cell: (show) => (
        <button
          type="button"
          className={css.link}
          aria-label={o.openShow(show.room_id)}
          onClick={() => onChange({ show: show.session_id })}
        >
          {show.room_id}
        </button>
      ),
    },
    { name: o.owner, cell: (show) => show.owner },
    { name: o.state, cell: (show) => <span className={`state ${show.status}`}>{t.live[show.status]}</span> },
    {
      name: o.outputs,
      cell: (show) => (
        <span className="badges">
          {show.outputs.map((output) => (
            <span key={output.id} className={`state ${output.state}`} title={output.error?.message}>
              {platformName(output.platform)}: {t.live[output.state]}
            </span>
          ))}
        </span>
      ),
    },
    { name: o.started, cell: (show) => <time dateTime={show.started_at}>{when(show.started_at, language)}</time> },
    { name: o.length, kind: "number", cell: (show) => clock(lengthOf(show)) },
  ];
  return (
    <section className="panel" data-shows={state}>
      <h2>{title}</h2>
      <Listed list={list} empty={empty}>
        {(rows) => (
          <Table
            label={title}
            columns={columns}
            rows={rows}
            keyOf={(show) => show.session_id}
            marks={(show) => ({ "data-room": show.room_id, "data-status": show.status })}
          />
        )}
      </Listed>
    </section>
  );
}

/** Seconds, until now or the end. */
export function lengthOf(show: ShowOut): number {
  return ((show.ended_at ? Date.parse(show.ended_at) : Date.now()) - Date.parse(show.started_at)) / 1000;
}
