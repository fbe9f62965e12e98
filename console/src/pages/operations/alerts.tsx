/** What is wrong and what was; and whether messages of it arrive. */
import { listAlerts, sendTestAlert, type AlertOut } from "../../api/operations";
import { when } from "../../i18n";
import { useAct } from "./act";
import { Listed, usePages } from "./listed";
import { Table, type Column } from "./table";
import { useOperationsTexts } from "./texts";
import css from "./alerts.module.css";

const PILLS: Record<AlertOut["severity"], string> = { info: "starting", warning: "warn", failure: "bad" };

export function Alerts() {
  const { o } = useOperationsTexts();
  const { act, busy } = useAct();
  return (
    <>
      <Part
        title={o.openAlerts}
        open
        empty={o.noOpenAlerts}
        end={
          <button type="button" disabled={busy} onClick={() => void act(sendTestAlert, o.testSent)}>
            {o.test}
          </button>
        }
      />
      <Part title={o.pastAlerts} open={false} empty={o.noPastAlerts} />
    </>
  );
}

function Part({ title, open, empty, end }: { title: string; open: boolean; empty: string; end?: React.ReactNode }) {
  const { o, language } = useOperationsTexts();
  const list = usePages(["alerts", open], (before, signal) => listAlerts(open, before, signal));
  const columns: Column<AlertOut>[] = [
    {
      name: o.severity,
      cell: (alert) => (
        <span className={`state ${open ? PILLS[alert.severity] : ""}`}>{o.severities[alert.severity]}</span>
      ),
    },
    {
      name: o.alert,
      kind: "wide",
      cell: (alert) => (
        <>
          <Words of={o.alertWords[alert.code]} />
          <b>{alert.title}</b>
          <div className={`dim ${css.lines}`}>{alert.body}</div>
          <div>
            <code>{alert.code}</code>
          </div>
        </>
      ),
    },
    { name: o.since, cell: (alert) => <time dateTime={alert.opened_at}>{when(alert.opened_at, language)}</time> },
    ...(open
      ? []
      : [
          {
            name: o.until,
            cell: (alert: AlertOut) => (
              <time dateTime={alert.resolved_at ?? ""}>{when(alert.resolved_at, language)}</time>
            ),
          },
        ]),
    { name: o.times, kind: "number", cell: (alert) => alert.count },
    { name: o.notified, cell: (alert) => (alert.notified === null ? "–" : alert.notified ? o.yes : o.no) },
  ];
  return (
    <section className="panel" data-alerts={open ? "open" : "past"}>
      <div className="row between">
        <h2>{title}</h2>
        {end}
      </div>
      <Listed list={list} empty={empty}>
        {(rows) => (
          <Table
            label={title}
            columns={columns}
            rows={rows}
            keyOf={(alert) => alert.id}
            marks={(alert) => ({ "data-code": alert.code })}
          />
        )}
      </Listed>
    </section>
  );
}

/** In the reader's language, where the service's own words are in another. Those stay: names and counts are in them. */
function Words({ of }: { of: { title: string; advice: string } | undefined }) {
  if (!of) return null;
  return (
    <div className={css.words}>
      <b>{of.title}</b>
      <div className="dim">{of.advice}</div>
    </div>
  );
}
