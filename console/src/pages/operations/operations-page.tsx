/** What an operator looks after. Nothing of it is asked for by anybody else. */
import { Link, useNavigate, useSearch } from "@tanstack/react-router";
import { useCallback, useEffect, useRef } from "react";

import { useSession } from "../../api/session";
import type { HealthOut } from "../../api/operations";
import { SignedOut } from "../../shell/shell";
import { Alerts } from "./alerts";
import { Audit } from "./audit";
import { Jobs } from "./jobs";
import { OVERALL, Overview, useHealth } from "./overview";
import { Patrol } from "./patrol";
import { TABS, type Change, type OperationsSearch, type Tab } from "./search";
import { Shows } from "./shows";
import { useOperationsTexts } from "./texts";
import css from "./operations-page.module.css";
import { problemText } from "../../i18n/problems";

export function OperationsPage() {
  const { t, o } = useOperationsTexts();
  const session = useSession();
  useEffect(() => {
    document.title = `${o.title} · ${t.brand}`;
  }, [o, t]);
  if (session.isPending) return <p className="dim">{t.loading}</p>;
  if (!session.data?.user_id) return <SignedOut />;
  if (!session.data.operator)
    return (
      <section className="empty" data-refused>
        <h1>{o.needed}</h1>
        <p>{o.neededMore}</p>
      </section>
    );
  return <Operations />;
}

function Operations() {
  const { t, o } = useOperationsTexts();
  const search: OperationsSearch = useSearch({ from: "/operations" });
  const navigate = useNavigate({ from: "/operations" });
  const health = useHealth();
  const tab = search.tab ?? "overview";
  const tabs = useRef<HTMLElement>(null);
  const counted = Boolean(health.data);
  // Where they do not all fit, the one that is open is seen; the counts make them wider.
  useEffect(() => {
    tabs.current?.querySelector("[aria-current]")?.scrollIntoView({ block: "nearest", inline: "center" });
    // oxlint-disable-next-line react/exhaustive-effect-dependencies -- looks at what these two have changed in the document
  }, [tab, counted]);
  // A filter is no place to come back to; a show that was opened is.
  const change = useCallback<Change>(
    (values) =>
      void navigate({ search: (now: OperationsSearch) => ({ ...now, ...values }), replace: !("show" in values) }),
    [navigate],
  );
  return (
    <div className={css.operations}>
      <div className="page-head">
        <h1>{o.title}</h1>
        {health.data ? (
          <span
            className={`state ${OVERALL[health.data.status]}`}
            role="status"
            data-health={health.isError ? "unknown" : health.data.status}
          >
            {o.status[health.data.status]}
          </span>
        ) : null}
      </div>
      {health.isError ? (
        <p className="notice bad" role="alert">
          {health.data ? o.old : problemText(health.error, t)}
        </p>
      ) : null}
      <nav ref={tabs} className="tabs" aria-label={o.sections}>
        {TABS.map((one) => (
          <Link
            key={one}
            to="/operations"
            search={one === "overview" ? {} : { tab: one }}
            activeOptions={{ exact: true, includeSearch: true }}
            activeProps={{}}
            aria-current={one === tab ? "page" : undefined}
          >
            {o.tabs[one]}
            <Count tab={one} health={health.data} />
          </Link>
        ))}
      </nav>
      <div className={css.body} data-tab={tab}>
        {tab === "overview" ? <Overview health={health.data} /> : null}
        {tab === "shows" ? <Shows search={search} onChange={change} /> : null}
        {tab === "patrol" ? <Patrol search={search} onChange={change} /> : null}
        {tab === "jobs" ? <Jobs search={search} onChange={change} /> : null}
        {tab === "alerts" ? <Alerts /> : null}
        {tab === "audit" ? <Audit search={search} onChange={change} /> : null}
      </div>
    </div>
  );
}

/** What wants a look, beside the name of its part. */
function Count({ tab, health }: { tab: Tab; health: HealthOut | undefined }) {
  const { o } = useOperationsTexts();
  if (!health) return null;
  const { figures } = health;
  const counts: Partial<Record<Tab, [number | null, string, string]>> = {
    shows: [figures.broadcasts_on_air, "good", o.figure.broadcasts_on_air],
    patrol: [figures.findings_open, "warn", o.figure.findings_open],
    jobs: [figures.jobs_failed, "bad", o.figure.jobs_failed],
    alerts: [figures.alerts_open, "bad", o.figure.alerts_open],
  };
  const [count, colour, label] = counts[tab] ?? [0, "", ""];
  if (!count) return null;
  return (
    <span className={`badge ${colour}`} title={label}>
      {count}
      <span className="visually-hidden"> {label}</span>
    </span>
  );
}
