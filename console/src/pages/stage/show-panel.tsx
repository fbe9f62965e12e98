/** The show: one button to begin, one to end, and for each platform what is true about it. */
import { useEffect, useState } from "react";

import { endShow, goLive, retryOutput, stopOutput, type OutputOut, type Preset } from "../../api/live";
import { Confirm } from "../../components/dialog";
import { Select } from "../../components/field";
import { useTellError } from "../../components/toasts";
import { clock, useTexts } from "../../i18n";
import type { Show } from "../../live/use-show";
import { platformName } from "./destinations";
import { isOnAir } from "./stage-page";
import { Timeline } from "./timeline";

const PRESETS: Preset[] = ["720p30", "720p60", "1080p30", "1080p60"];

function useNow(running: boolean): number {
  const [now, set] = useState(Date.now);
  useEffect(() => {
    if (!running) return;
    const timer = setInterval(() => set(Date.now()), 500);
    return () => clearInterval(timer);
  }, [running]);
  return now;
}

export function ShowPanel({ room, show, chosen, onStart }: { room: string; show: Show; chosen: string[] | null; onStart: () => void }) {
  const { t } = useTexts();
  const tellError = useTellError();
  const [preset, setPreset] = useState<Preset>("720p30");
  const [busy, setBusy] = useState(false);
  const [ending, setEnding] = useState(false);
  const { status } = show;
  const onAir = status !== null && isOnAir(status.status);
  const now = useNow(onAir);
  // A moment without a connection is nothing to be told of.
  const [late, setLate] = useState(false);
  useEffect(() => {
    if (show.connected) {
      setLate(false);
      return;
    }
    const timer = setTimeout(() => setLate(true), 1500);
    return () => clearTimeout(timer);
  }, [show.connected]);

  const start = async () => {
    setBusy(true);
    onStart();
    try {
      await goLive(room, chosen ?? [], preset);
    } catch (error) {
      tellError(error);
    } finally {
      setBusy(false);
    }
  };
  const end = async () => {
    setEnding(false);
    try {
      await endShow(room);
    } catch (error) {
      tellError(error);
    }
  };
  return (
    <section className="panel show" data-status={status?.status ?? "unknown"} data-connected={show.connected}>
      <header className="row">
        <h2>{t.stage.show}</h2>
        {status ? (
          <span className={`state ${status.status}`} role="status">
            {t.live[status.status as keyof typeof t.live] ?? status.status}
          </span>
        ) : null}
      </header>
      {late ? (
        <p className="notice bad" role="alert">
          {t.stage.lostConnection}
        </p>
      ) : null}
      {status?.source && onAir ? (
        <p className={status.source.state === "live" ? "dim" : "notice"}>
          {t.stage.source[status.source.state]}
          {status.source.error ? ` – ${status.source.error.message} ${status.source.error.action}` : ""}
        </p>
      ) : null}
      {status?.end && !onAir ? (
        <p className="notice">
          {status.end.message} {status.end.action}
        </p>
      ) : null}
      {onAir ? null : (
        <div className="row">
          <button type="button" className="primary big" disabled={busy || !chosen?.length} onClick={() => void start()}>
            {busy ? t.stage.starting : t.stage.goLive}
          </button>
          <Select label={t.stage.preset} value={preset} options={PRESETS.map((one) => [one, one] as const)} onChange={(value) => setPreset(value as Preset)} />
        </div>
      )}
      <ul className="outputs">
        {status?.outputs.map((output) => (
          <Output key={output.id} output={output} figures={show.figures[output.id] ?? output.metrics ?? undefined} now={now} onAir={onAir} />
        ))}
      </ul>
      {onAir ? (
        <button type="button" className="danger big" disabled={status.status === "stopping"} onClick={() => setEnding(true)}>
          {t.stage.end}
        </button>
      ) : null}
      {status?.status === "idle" ? <p className="dim">{t.stage.nothing}</p> : null}
      <Timeline events={show.timeline} />
      {ending ? <Confirm title={t.stage.endAsk} action={t.stage.end} onNo={() => setEnding(false)} onYes={() => void end()} /> : null}
    </section>
  );
}

function Output({ output, figures, now, onAir }: { output: OutputOut; figures?: NonNullable<OutputOut["metrics"]>; now: number; onAir: boolean }) {
  const { t } = useTexts();
  const tellError = useTellError();
  const wait = output.next_attempt_at ? Math.ceil((Date.parse(output.next_attempt_at) - now) / 1000) : 0;
  const over = output.state === "ended" || output.state === "stopping";
  const act = (work: Promise<unknown>) => void work.catch(tellError);
  return (
    <li className={`output ${output.state}`} data-platform={output.platform} data-state={output.state} data-code={output.error?.code ?? ""}>
      <div className="row">
        <span className="lamp" aria-hidden="true" />
        <b className="grow">
          {platformName(output.platform)} {output.label}
        </b>
        <span className={`state ${output.state}`} role="status" aria-label={`${platformName(output.platform)}: ${t.live[output.state]}`}>
          {t.live[output.state]}
        </span>
      </div>
      <dl className="figures">
        {output.live_since && output.state === "live" ? (
          <div>
            <dt>{t.stage.onAir}</dt>
            <dd>{clock((now - Date.parse(output.live_since)) / 1000)}</dd>
          </div>
        ) : null}
        {output.state === "live" && figures?.bitrate_kbps !== undefined ? (
          <div>
            <dt>{t.stage.bitrate}</dt>
            <dd>{Math.round(figures.bitrate_kbps)} kbit/s</dd>
          </div>
        ) : null}
        {output.state === "live" && figures?.dropped_frames !== undefined ? (
          <div>
            <dt>{t.stage.drops}</dt>
            <dd>{figures.dropped_frames}</dd>
          </div>
        ) : null}
        {output.state === "live" ? <div className="dim">{t.stage.confirmed[output.confirmation]}</div> : null}
        {output.attempt > 1 && !over ? <div className="dim">{t.stage.attempt(output.attempt)}</div> : null}
      </dl>
      {output.error && !over ? (
        <div className="notice bad">
          <b>{output.error.message}</b> {output.error.action}
          {output.error.cause ? <p>{output.error.cause.message}</p> : null}
        </div>
      ) : null}
      {onAir && !over ? (
        <div className="row">
          {wait > 0 && output.state !== "live" ? <span className="dim">{t.stage.retryIn(wait)}</span> : null}
          {output.state === "error" || (wait > 0 && output.state !== "live") ? (
            <button type="button" onClick={() => act(retryOutput(output.id))}>
              {t.stage.retryNow}
            </button>
          ) : null}
          <button type="button" className="quiet" onClick={() => act(stopOutput(output.id))}>
            {t.stage.stopThis}
          </button>
        </div>
      ) : null}
    </li>
  );
}
