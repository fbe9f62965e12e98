/** The show: one button to begin, one to end, and for each platform what is true about it. */
import { useEffect, useState } from "react";

import { endShow, goLive, isOnAir, isUp, type Preset } from "../../api/live";
import { ApiError } from "../../api/http";
import { Confirm } from "../../components/dialog";
import { useTellError } from "../../components/toasts";
import { useTexts } from "../../i18n";
import type { useShow } from "../../live/use-show";
import { Output } from "./output";
import { Timeline } from "./timeline";
import css from "./show-panel.module.css";
import { problemText } from "../../i18n/problems";

/** A moment without a connection is nothing to be told of. Milliseconds. */
const MOMENT = 1500;

export function ShowPanel({
  room,
  show,
  host,
  destinations,
  preset,
  onStart,
  onNewKey,
}: {
  room: string;
  show: ReturnType<typeof useShow>;
  /** The name by which the host is in the room. */
  host: string | null;
  destinations: string[];
  preset: Preset;
  /** Steps on stage, should the host not be there yet. */
  onStart: () => void;
  onNewKey: (destination: string) => void;
}) {
  const { t } = useTexts();
  const tellError = useTellError();
  const [busy, setBusy] = useState(false);
  const [ending, setEnding] = useState(false);
  const [failed, setFailed] = useState<string | null>(null);
  const { status, take } = show;
  const onAir = isOnAir(status);
  const [late, setLate] = useState(false);
  useEffect(() => {
    if (show.news !== "old") return;
    const timer = setTimeout(() => setLate(true), MOMENT);
    return () => {
      clearTimeout(timer);
      setLate(false);
    };
  }, [show.news]);

  const start = async () => {
    setBusy(true);
    setFailed(null);
    onStart();
    try {
      take(await goLive(room, destinations, preset));
    } catch (error) {
      if (error instanceof ApiError) setFailed(problemText(error, t));
      else tellError(error);
    } finally {
      setBusy(false);
    }
  };
  const end = async () => {
    setEnding(false);
    try {
      take(await endShow(room));
    } catch (error) {
      tellError(error);
    }
  };
  const up = status?.outputs.filter(isUp) ?? [];
  const live = up.filter((output) => output.state === "live").length;
  return (
    <section
      className={`panel ${css.show}`}
      data-status={status?.status ?? "unknown"}
      data-news={show.news}
      data-late={late}
    >
      <header className="row">
        <h2>{t.stage.show}</h2>
        {status ? (
          <span className={`state ${status.status}`} role="status">
            {status.status === "degraded" ? t.stage.someLive(live, up.length) : t.live[status.status]}
          </span>
        ) : null}
      </header>
      {late ? (
        <p className="notice bad" role="alert">
          {t.stage.lostConnection}
        </p>
      ) : null}
      {show.refused ? (
        <p className="notice bad" role="alert">
          {problemText(show.refused, t)}
        </p>
      ) : null}
      {onAir ? null : (
        <>
          <button
            type="button"
            className="primary big"
            disabled={busy || !destinations.length || status === null || Boolean(show.refused)}
            onClick={() => void start()}
          >
            {busy ? t.stage.starting : t.stage.goLive}
          </button>
          {destinations.length ? null : <p className="dim">{t.stage.chooseWhere}</p>}
        </>
      )}
      {failed ? (
        <p className="notice bad" role="alert">
          {failed}
        </p>
      ) : null}
      {onAir && status.warning ? (
        <p className="notice warn" data-warning={status.warning.code}>
          {status.warning.message} {status.warning.action}
        </p>
      ) : null}
      {onAir && status.source ? (
        <p
          className={
            ({ live: "dim", connecting: "notice" } as Record<string, string>)[status.source.state] ?? "notice warn"
          }
          data-source={status.source.state}
        >
          {t.stage.source[status.source.state]}
          {status.source.error ? ` ${status.source.error.action}` : ""}
        </p>
      ) : null}
      {!onAir && status?.end ? (
        <p className="notice">
          {status.end.message} {status.end.action}
        </p>
      ) : null}
      {status?.outputs.length ? (
        <ul className={css.outputs}>
          {status.outputs.map((output) => (
            <Output
              key={output.id}
              output={output}
              figures={show.figures[output.id] ?? output.metrics ?? undefined}
              ahead={show.ahead}
              onAir={onAir}
              take={take}
              onNewKey={onNewKey}
            />
          ))}
        </ul>
      ) : null}
      {onAir ? (
        <button
          type="button"
          className="danger big"
          disabled={status.status === "stopping"}
          onClick={() => setEnding(true)}
        >
          {status.status === "stopping" ? t.live.stopping : t.stage.end}
        </button>
      ) : null}
      {status?.status === "idle" ? <p className="dim">{t.stage.nothing}</p> : null}
      <Timeline events={show.timeline} host={host} />
      {ending ? (
        <Confirm title={t.stage.endAsk} action={t.stage.end} onNo={() => setEnding(false)} onYes={() => void end()} />
      ) : null}
    </section>
  );
}
