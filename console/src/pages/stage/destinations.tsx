/** Where to send: keys are typed once and never come back; each can be tried without going live. */
import { useMutation, useQuery, useQueryClient } from "@tanstack/react-query";
import { useState } from "react";

import {
  listDestinations,
  removeDestination,
  testDestination,
  type DestinationOut,
  type StepOut,
} from "../../api/live";
import { Confirm, Dialog } from "../../components/dialog";
import { useTellError } from "../../components/toasts";
import { useTexts } from "../../i18n";
import { PLATFORMS, platformName } from "../../live/platforms";
import { DestinationForm } from "./destination-form";
import css from "./destinations.module.css";
import { problemText } from "../../i18n/problems";

const KEY = ["destinations"] as const;

export function useDestinations() {
  return useQuery({ queryKey: KEY, queryFn: ({ signal }) => listDestinations(signal) });
}

/** Two clicks: everything that is saved is where one goes live to, until one says otherwise. */
export function idsOf(all: DestinationOut[] | undefined, chosen: string[] | null): string[] {
  const there = all?.map((one) => one.id) ?? [];
  return chosen === null ? there : there.filter((id) => chosen.includes(id));
}

export function Destinations({
  chosen,
  onChoose,
  shown,
  onAdd,
  changing: changed,
  onChanging,
  onKeyChanged,
}: {
  chosen: string[] | null;
  onChoose: (ids: string[]) => void;
  /** Ids of the destinations that the running show has; null off air. */
  shown: string[] | null;
  /** Takes one into the running show. */
  onAdd: (id: string) => Promise<void>;
  /** The one whose key is being typed. */
  changing: string | null;
  onChanging: (id: string | null) => void;
  onKeyChanged: (id: string) => void;
}) {
  const { t } = useTexts();
  const client = useQueryClient();
  const tellError = useTellError();
  const [adding, setAdding] = useState(false);
  const [removing, setRemoving] = useState<DestinationOut | null>(null);
  const found = useDestinations();
  const all = found.data?.data;
  const ids = idsOf(all, chosen);
  const changing = all?.find((one) => one.id === changed);
  const again = () => client.invalidateQueries({ queryKey: KEY });
  const remove = useMutation({
    mutationFn: (id: string) => removeDestination(id),
    onError: tellError,
    onSettled: again,
  });
  const added = (made: DestinationOut) => {
    setAdding(false);
    if (chosen !== null) onChoose([...ids, made.id]);
    void again();
  };
  const first = PLATFORMS.find(([platform]) => !all?.some((one) => one.platform === platform))?.[0] ?? "youtube";
  return (
    <section className="panel">
      <header className="row">
        <h2>{t.stage.destinations}</h2>
        {all?.length ? (
          <button type="button" onClick={() => setAdding(true)}>
            <span aria-hidden="true">＋</span> {t.stage.addDestination}
          </button>
        ) : null}
      </header>
      {found.isError ? <p role="alert">{problemText(found.error, t)}</p> : null}
      {all && !all.length ? (
        <>
          <p>{t.stage.noDestinations}</p>
          <DestinationForm onDone={added} />
        </>
      ) : null}
      {all?.length ? (
        <ul className={css.destinations}>
          {all.map((one) => (
            <Destination
              key={one.id}
              one={one}
              onAir={shown !== null}
              inShow={shown?.includes(one.id) ?? false}
              checked={ids.includes(one.id)}
              onCheck={(on) => onChoose(on ? [...ids, one.id] : ids.filter((id) => id !== one.id))}
              onAdd={() => onAdd(one.id)}
              onChange={() => onChanging(one.id)}
              onRemove={() => setRemoving(one)}
            />
          ))}
        </ul>
      ) : null}
      {adding ? (
        <Dialog title={t.stage.addDestination} onClose={() => setAdding(false)}>
          <DestinationForm first={first} onDone={added} onCancel={() => setAdding(false)} />
        </Dialog>
      ) : null}
      {changing ? (
        <Dialog
          title={t.stage.changeKeyOf(changing.label || platformName(changing.platform))}
          onClose={() => onChanging(null)}
        >
          {shown?.includes(changing.id) ? <p className="notice">{t.stage.keyInShow}</p> : null}
          <DestinationForm
            one={changing}
            onCancel={() => onChanging(null)}
            onDone={(kept) => {
              onChanging(null);
              onKeyChanged(kept.id);
              void again();
            }}
          />
        </Dialog>
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

function Destination({
  one,
  onAir,
  inShow,
  checked,
  onCheck,
  onAdd,
  onChange,
  onRemove,
}: {
  one: DestinationOut;
  onAir: boolean;
  inShow: boolean;
  checked: boolean;
  onCheck: (on: boolean) => void;
  onAdd: () => Promise<void>;
  onChange: () => void;
  onRemove: () => void;
}) {
  const { t } = useTexts();
  const tellError = useTellError();
  const test = useMutation({ mutationFn: () => testDestination(one.id), onError: tellError });
  const add = useMutation({ mutationFn: onAdd, onError: tellError });
  const name = [platformName(one.platform), one.label].filter(Boolean).join(" ");
  return (
    <li className={css.destination}>
      {onAir ? (
        <span className={css.name}>
          <b>{platformName(one.platform)}</b> {one.label}
        </span>
      ) : (
        <label className={`check ${css.name}`}>
          <input type="checkbox" checked={checked} onChange={(event) => onCheck(event.target.checked)} />
          <span>
            <b>{platformName(one.platform)}</b> {one.label}
          </span>
        </label>
      )}
      <code title={one.ingest_url}>{t.stage.keyOf(one.key_fingerprint)}</code>
      <div className={`row ${css.actions}`} role="group" aria-label={name}>
        {onAir && !inShow ? (
          <button type="button" disabled={add.isPending} onClick={() => add.mutate()}>
            {t.stage.addToShow}
          </button>
        ) : null}
        {/* A platform that is on air with this key would take a second publish for somebody else's. */}
        {inShow ? null : (
          <button type="button" className="quiet" disabled={test.isPending} onClick={() => test.mutate()}>
            {test.isPending ? t.stage.testing : t.stage.test}
          </button>
        )}
        <button type="button" className="quiet" onClick={onChange}>
          {t.stage.changeKey}
        </button>
        <button type="button" className="quiet" onClick={onRemove}>
          {t.stage.remove}
        </button>
      </div>
      {test.data && !inShow ? <Steps ok={test.data.ok} steps={test.data.steps} /> : null}
    </li>
  );
}

function Steps({ ok, steps }: { ok: boolean; steps: StepOut[] }) {
  const { t } = useTexts();
  return (
    <div className={`notice ${ok ? "good" : "bad"} ${css.test}`} role="status">
      <b>{ok ? t.stage.testOk : t.stage.testBad}</b>
      <ol className={css.steps}>
        {steps.map((step) => (
          <li key={step.name} data-ok={step.ok}>
            <span aria-hidden="true">{step.ok ? "✓" : "✗"}</span> {t.stage.steps[step.name]}{" "}
            <span className="dim">{step.ok ? `${step.ms} ms` : t.stage.stepFailed}</span>
            {step.message ? <p>{[step.message, step.action].filter(Boolean).join(" ")}</p> : null}
          </li>
        ))}
      </ol>
    </div>
  );
}
