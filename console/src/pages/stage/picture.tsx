/** What goes out, as it goes out, and what it is made of. */
import type { RefObject } from "react";

import { Link } from "@tanstack/react-router";

import { ApiError } from "../../api/http";
import { Field, Select } from "../../components/field";
import { useTexts } from "../../i18n";
import type { Texts } from "../../i18n/en";
import { NIGHT, type Choice } from "../../live/choice";
import type { Preset } from "../../api/live";
import type { Trouble } from "../../live/troubles";
import type { Outgoing } from "../../live/use-outgoing";
import { Picker } from "./picker";
import css from "./picture.module.css";
import { problemText } from "../../i18n/problems";

const PRESETS: Preset[] = ["480p30", "720p30", "720p60", "1080p30", "1080p60"];
const COLOURS = { night: NIGHT, white: "#ffffff", green: "#00b140", rose: "#f2d5dc" } as const;

export function Preview({
  canvas,
  outgoing,
  noAvatar,
  light,
  program,
}: {
  canvas: RefObject<HTMLCanvasElement | null>;
  outgoing: Outgoing;
  noAvatar: boolean;
  light: boolean;
  /** What sends into the room in the host's place. */
  program: string | null;
}) {
  const { t } = useTexts();
  const { connection } = outgoing;
  return (
    <section className={css.preview} aria-label={t.stage.preview}>
      <div className="stage-box wide">
        <canvas
          ref={canvas}
          role="img"
          aria-label={t.stage.preview}
          data-connection={connection}
          data-avatar={outgoing.avatar}
        />
        <span
          className={
            connection === "on" ? "over low good" : connection === "reconnecting" ? "over low bad" : "over low"
          }
          role="status"
        >
          {t.stage.connection[connection]}
        </span>
        {outgoing.avatar === "loading" ? <span className="over">{t.stage.avatarLoading}</span> : null}
        {noAvatar ? (
          <p className={`over ${css.open}`}>
            {t.stage.noAvatar} <Link to="/library">{t.stage.toLibrary}</Link>
          </p>
        ) : null}
      </div>
      {program ? <p className="notice">{t.stage.programSends(program)}</p> : null}
      {outgoing.soundBlocked ? <p className="notice warn">{t.stage.soundBlocked}</p> : null}
      {outgoing.slow !== null ? <p className="notice warn">{t.stage.slow(outgoing.slow, light)}</p> : null}
      {outgoing.troubles.map((one) => (
        <p key={one.what} className="notice bad" role="alert">
          <b>{t.stage.trouble[one.what]}</b> {said(one, t)}
        </p>
      ))}
    </section>
  );
}

/** The service's own words where it has any; else what can be known. */
function said({ error, what }: Trouble, t: Texts): string {
  if (error instanceof ApiError) return problemText(error, t);
  if (error instanceof DOMException && error.name === "NotAllowedError") return t.stage.deviceDenied;
  if (error instanceof DOMException && error.name === "NotFoundError") return t.stage.deviceMissing;
  return what === "room" ? t.stage.roomUnreachable : "";
}

export function Choices({
  choice,
  change,
  avatar,
  outgoing,
  onAir,
}: {
  choice: Choice;
  change: (values: Partial<Choice>) => void;
  avatar: Choice["avatar"];
  outgoing: Outgoing;
  onAir: boolean;
}) {
  const { t } = useTexts();
  const { connection } = outgoing;
  const none = { name: t.none, thumbnail: null };
  const colours = Object.entries(COLOURS) as [keyof typeof COLOURS, string][];
  const colour = colours.find(([, value]) => value === choice.background);
  const off = connection === "off" || connection === "elsewhere";
  return (
    <section className={`panel ${css.sources}`} aria-label={t.stage.sources}>
      <div className="row">
        <button
          type="button"
          disabled={!outgoing.ready}
          onClick={() => void (off ? outgoing.step() : outgoing.leave())}
        >
          {off ? t.stage.toStudio : t.stage.leave}
        </button>
        <label className="check">
          <input
            type="checkbox"
            checked={choice.camera}
            onChange={(event) => change({ camera: event.target.checked })}
          />{" "}
          {t.stage.camera}
        </label>
        <label className="check">
          <input
            type="checkbox"
            checked={choice.microphone}
            onChange={(event) => change({ microphone: event.target.checked })}
          />{" "}
          {t.stage.microphone}
        </label>
      </div>
      <div className={css.choices}>
        <Picker label={t.stage.avatar} type="vrm" value={avatar ?? none} onChoose={(one) => change({ avatar: one })} />
        <Picker
          label={t.stage.animation}
          type="animation"
          value={choice.animation ?? { ...none, name: t.stage.standStill }}
          extra={[{ name: t.stage.standStill, choose: () => change({ animation: null }) }]}
          onChoose={(one) => change({ animation: one })}
        />
        <Picker
          label={t.stage.background}
          type="hdr"
          value={
            typeof choice.background === "string"
              ? {
                  name: colour ? t.stage.colours[colour[0]] : choice.background,
                  thumbnail: null,
                  colour: choice.background,
                }
              : choice.background
          }
          extra={colours.map(([name, value]) => ({
            name: t.stage.colours[name],
            colour: value,
            choose: () => change({ background: value }),
          }))}
          onChoose={(one) => change({ background: one })}
        />
        <Picker
          label={t.stage.music}
          type="bgm"
          value={choice.music ?? none}
          extra={[{ name: t.none, choose: () => change({ music: null }) }]}
          onChoose={(one) => change({ music: one })}
        />
        {choice.music ? (
          <Field label={t.stage.volume}>
            {(id) => (
              <input
                id={id}
                type="range"
                min={0}
                max={1}
                step={0.05}
                value={choice.volume}
                onChange={(event) => change({ volume: event.target.valueAsNumber })}
              />
            )}
          </Field>
        ) : null}
      </div>
      <div className={`row ${css.quality}`}>
        {onAir ? null : (
          <Select
            label={t.stage.preset}
            value={choice.preset}
            options={PRESETS.map((one) => [one, t.stage.presets[one]] as const)}
            onChange={(value) => change({ preset: value as Preset })}
          />
        )}
        <label className="check">
          <input type="checkbox" checked={choice.light} onChange={(event) => change({ light: event.target.checked })} />{" "}
          {t.stage.light}
        </label>
      </div>
    </section>
  );
}
