/** Types a stream key in: the only way a key goes, and it goes once. */
import { useState, type FormEvent } from "react";

import { addDestination, changeDestination, type DestinationOut } from "../../api/live";
import { Field } from "../../components/field";
import { useTexts } from "../../i18n";
import { PLATFORMS, type Platform } from "../../live/platforms";
import css from "./destination-form.module.css";
import { problemText } from "../../i18n/problems";

/** A new destination, or another key for `one`. The key stays in the form, not in the state of the page: nothing that
 * renders can show it. */
export function DestinationForm({
  one,
  first = "youtube",
  onDone,
  onCancel,
}: {
  one?: DestinationOut;
  first?: Platform;
  onDone: (kept: DestinationOut) => void;
  onCancel?: () => void;
}) {
  const { t } = useTexts();
  const [platform, setPlatform] = useState<Platform>(one?.platform ?? first);
  const [busy, setBusy] = useState(false);
  const [failed, setFailed] = useState<string | null>(null);
  const submit = async (event: FormEvent<HTMLFormElement>) => {
    event.preventDefault();
    const form = event.currentTarget;
    const values = new FormData(form);
    const text = (name: string) => {
      const value = values.get(name);
      return typeof value === "string" ? value.trim() : "";
    };
    setBusy(true);
    setFailed(null);
    try {
      const stream_key = text("stream_key");
      const label = text("label");
      const ingest_url = text("ingest_url");
      const kept = one
        ? await changeDestination(one.id, {
            stream_key,
            label,
            ...(ingest_url && ingest_url !== one.ingest_url ? { ingest_url } : {}),
          })
        : await addDestination({ platform, stream_key, label, ingest_url: ingest_url || null });
      form.reset();
      onDone(kept);
    } catch (error) {
      setFailed(problemText(error, t));
    } finally {
      setBusy(false);
    }
  };
  const custom = platform === "custom";
  const address = (
    <Field label={t.stage.address} hint={custom ? undefined : t.stage.addressHint}>
      {(id) => (
        <input
          id={id}
          name="ingest_url"
          defaultValue={one?.ingest_url}
          required={custom}
          placeholder={custom ? "rtmps://…" : ""}
          inputMode="url"
          autoComplete="off"
          spellCheck={false}
        />
      )}
    </Field>
  );
  return (
    <form className={css.form} onSubmit={(event) => void submit(event)}>
      {one ? null : (
        <fieldset className={css.segments}>
          <legend>{t.stage.platform}</legend>
          {PLATFORMS.map(([value, name]) => (
            <label key={value} className="check">
              <input
                type="radio"
                name="platform"
                value={value}
                checked={platform === value}
                onChange={() => setPlatform(value)}
              />{" "}
              {name}
            </label>
          ))}
        </fieldset>
      )}
      {custom ? address : null}
      <Field label={t.stage.key} hint={`${t.stage.whereKey[platform]} ${t.stage.keyHint}`}>
        {(id) => (
          <input id={id} name="stream_key" type="password" autoComplete="off" spellCheck={false} required={!custom} />
        )}
      </Field>
      <details>
        <summary>{t.more}</summary>
        <div className="stack">
          <Field label={t.stage.label}>
            {(id) => <input id={id} name="label" defaultValue={one?.label} maxLength={100} autoComplete="off" />}
          </Field>
          {custom ? null : address}
        </div>
      </details>
      {failed ? (
        <p className="notice bad" role="alert">
          {failed}
        </p>
      ) : null}
      <div className="row end">
        {onCancel ? (
          <button type="button" onClick={onCancel}>
            {t.cancel}
          </button>
        ) : null}
        <button type="submit" className="primary" disabled={busy}>
          {t.save}
        </button>
      </div>
    </form>
  );
}
