/** Suspended users: who and why; suspending another one, and restoring one. */
import { useQuery } from "@tanstack/react-query";
import { useState, type FormEvent } from "react";

import { listSuspended, restoreUser, suspendUser } from "../../api/operations";
import { Field } from "../../components/field";
import { ReasonField } from "../../components/reason-field";
import { when } from "../../i18n";
import { problemText } from "../../i18n/problems";
import { useAct } from "./act";
import { KEY } from "./listed";
import { useOperationsTexts } from "./texts";

export function Suspended() {
  const { o, t, language } = useOperationsTexts();
  const { act, busy } = useAct();
  const [user, setUser] = useState("");
  const [reason, setReason] = useState("");
  const found = useQuery({ queryKey: [KEY, "suspended"], queryFn: ({ signal }) => listSuspended(signal) });
  const suspend = (event: FormEvent) => {
    event.preventDefault();
    const done = async () => {
      await suspendUser(user.trim(), reason.trim());
      setUser("");
      setReason("");
    };
    void act(done, o.suspendDone(user.trim()));
  };
  return (
    <section>
      <h2>{o.suspended}</h2>
      {found.isError ? (
        <p className="notice bad" role="status">
          {problemText(found.error, t)}
        </p>
      ) : null}
      {found.data?.length === 0 ? <p className="dim">{o.noSuspended}</p> : null}
      <ul>
        {found.data?.map((one) => (
          <li key={one.user_id} className="row">
            <strong>{one.user_id}</strong>
            <span>{one.reason}</span>
            <span className="dim">{when(one.suspended_at, language)}</span>
            <button
              type="button"
              disabled={busy}
              onClick={() => void act(() => restoreUser(one.user_id), o.restoreDone(one.user_id))}
            >
              {o.restoreUser}
            </button>
          </li>
        ))}
      </ul>
      <form className="row" onSubmit={suspend}>
        <Field label={o.userId}>
          {(id) => (
            <input id={id} value={user} maxLength={255} required onChange={(event) => setUser(event.target.value)} />
          )}
        </Field>
        <ReasonField label={o.suspendReason} value={reason} onChange={setReason} />
        <button type="submit" className="danger" disabled={busy || !user.trim() || !reason.trim()}>
          {o.suspendUser}
        </button>
      </form>
    </section>
  );
}
