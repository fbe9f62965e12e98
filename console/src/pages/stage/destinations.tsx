/** Where to send: keys are typed once and never come back; each can be tried without going live. */
import { useMutation, useQuery, useQueryClient } from "@tanstack/react-query";
import { useEffect, useState, type FormEvent } from "react";

import { addDestination, listDestinations, removeDestination, testDestination, type DestinationIn, type DestinationOut, type StepOut } from "../../api/live";
import { Confirm, Dialog } from "../../components/dialog";
import { Field, Select } from "../../components/field";
import { useTellError } from "../../components/toasts";
import { useTexts } from "../../i18n";

const PLATFORMS = [
  ["youtube", "YouTube"],
  ["twitch", "Twitch"],
  ["custom", "RTMP"],
] as const;

export const platformName = (platform: string) => PLATFORMS.find(([one]) => one === platform)?.[1] ?? platform;

export function Destinations({ chosen, onChoose, busy }: { chosen: string[] | null; onChoose: (ids: string[]) => void; busy: boolean }) {
  const { t } = useTexts();
  const client = useQueryClient();
  const tellError = useTellError();
  const [adding, setAdding] = useState(false);
  const [removing, setRemoving] = useState<DestinationOut | null>(null);
  const found = useQuery({ queryKey: ["destinations"], queryFn: ({ signal }) => listDestinations(signal) });
  const all = found.data?.data;
  // Two clicks: everything that is saved is where one goes live to, until one says otherwise.
  useEffect(() => {
    if (all && chosen === null && all.length) onChoose(all.map((one) => one.id));
  }, [all, chosen, onChoose]);
  const remove = useMutation({
    mutationFn: (id: string) => removeDestination(id),
    onError: tellError,
    onSuccess: (_, id) => onChoose((chosen ?? []).filter((one) => one !== id)),
    onSettled: () => client.invalidateQueries({ queryKey: ["destinations"] }),
  });
  return (
    <section className="panel">
      <header className="row">
        <h2>{t.stage.destinations}</h2>
        <button type="button" onClick={() => setAdding(true)}>
          ＋ {t.stage.addDestination}
        </button>
      </header>
      {all && !all.length ? <p className="dim">{t.stage.noDestinations}</p> : null}
      <ul className="destinations">
        {all?.map((one) => (
          <Destination
            key={one.id}
            one={one}
            busy={busy}
            checked={(chosen ?? []).includes(one.id)}
            onCheck={(on) => onChoose(on ? [...(chosen ?? []), one.id] : (chosen ?? []).filter((id) => id !== one.id))}
            onRemove={() => setRemoving(one)}
          />
        ))}
      </ul>
      {adding ? (
        <Add
          onClose={() => setAdding(false)}
          onAdded={(made) => {
            setAdding(false);
            onChoose([...(chosen ?? []), made.id]);
            void client.invalidateQueries({ queryKey: ["destinations"] });
          }}
        />
      ) : null}
      {removing ? (
        <Confirm
          title={t.stage.removeAsk(removing.label || platformName(removing.platform))}
          action={t.stage.remove}
          onNo={() => setRemoving(null)}
          onYes={() => {
            remove.mutate(removing.id);
            setRemoving(null);
          }}
        />
      ) : null}
    </section>
  );
}

function Destination({ one, busy, checked, onCheck, onRemove }: { one: DestinationOut; busy: boolean; checked: boolean; onCheck: (on: boolean) => void; onRemove: () => void }) {
  const { t } = useTexts();
  const tellError = useTellError();
  const test = useMutation({ mutationFn: () => testDestination(one.id), onError: tellError });
  return (
    <li>
      <div className="row">
        <label className="check grow">
          <input type="checkbox" checked={checked} disabled={busy} onChange={(event) => onCheck(event.target.checked)} />{" "}
          <b>{platformName(one.platform)}</b> {one.label}
        </label>
        <code title={one.ingest_url}>{one.key_fingerprint}</code>
        <button type="button" className="quiet" disabled={test.isPending} onClick={() => test.mutate()}>
          {test.isPending ? t.stage.testing : t.stage.test}
        </button>
        <button type="button" className="quiet" onClick={onRemove}>
          {t.stage.remove}
        </button>
      </div>
      {test.data ? <Steps ok={test.data.ok} steps={test.data.steps} /> : null}
    </li>
  );
}

function Steps({ ok, steps }: { ok: boolean; steps: StepOut[] }) {
  const { t } = useTexts();
  return (
    <div className={ok ? "notice good" : "notice bad"} role="status">
      <b>{ok ? t.stage.testOk : t.stage.testBad}</b>
      <ol className="steps">
        {steps.map((step) => (
          <li key={step.name} className={step.ok ? "good" : "bad"}>
            {step.ok ? "✓" : "✗"} {step.name} <span className="dim">{step.ms} ms</span>
            {step.message ? <p>{[step.message, step.action].filter(Boolean).join(" ")}</p> : null}
          </li>
        ))}
      </ol>
    </div>
  );
}

function Add({ onClose, onAdded }: { onClose: () => void; onAdded: (made: DestinationOut) => void }) {
  const { t } = useTexts();
  const tellError = useTellError();
  const [platform, setPlatform] = useState<DestinationIn["platform"]>("youtube");
  const [busy, setBusy] = useState(false);
  // The form keeps the key, not the state of the page: nothing that renders can show it.
  const submit = async (event: FormEvent<HTMLFormElement>) => {
    event.preventDefault();
    const form = event.currentTarget;
    const values = new FormData(form);
    const text = (name: string) => String(values.get(name) ?? "").trim();
    setBusy(true);
    try {
      const made = await addDestination({ platform, stream_key: text("stream_key"), label: text("label"), ingest_url: text("ingest_url") || null });
      form.reset();
      onAdded(made);
    } catch (error) {
      tellError(error);
    } finally {
      setBusy(false);
    }
  };
  return (
    <Dialog title={t.stage.addDestination} onClose={onClose}>
      <form onSubmit={(event) => void submit(event)}>
        <Select label={t.stage.platform} value={platform} options={PLATFORMS} onChange={(value) => setPlatform(value as DestinationIn["platform"])} />
        <Field label={t.stage.label}>{(id) => <input id={id} name="label" maxLength={100} />}</Field>
        <Field label={t.stage.address}>
          {(id) => <input id={id} name="ingest_url" required={platform === "custom"} placeholder={platform === "custom" ? "rtmps://…" : ""} />}
        </Field>
        <Field label={t.stage.key} hint={t.stage.keyHint}>
          {(id) => <input id={id} name="stream_key" type="password" autoComplete="off" spellCheck={false} required />}
        </Field>
        <div className="row end">
          <button type="button" onClick={onClose}>
            {t.cancel}
          </button>
          <button type="submit" className="primary" disabled={busy}>
            {t.save}
          </button>
        </div>
      </form>
    </Dialog>
  );
}
