/** A file that an operator has taken down: its owner reads why, and an operator takes it down or puts it back. */
import { useMutation, useQueryClient } from "@tanstack/react-query";
import { useState, type FormEvent } from "react";

import type { AssetOut } from "../../api/library";
import { refreshAssets } from "../../api/lists";
import { putBack, takeDown } from "../../api/operations";
import { useSession } from "../../api/session";
import { Icon } from "../../components/icon";
import { ReasonField } from "../../components/reason-field";
import { useTellError } from "../../components/toasts";
import { useTexts } from "../../i18n";

export function TakenDown({ asset }: { asset: AssetOut }) {
  const { t } = useTexts();
  const operator = useSession().data?.operator;
  return (
    <>
      {asset.taken_down_reason ? (
        <p className="notice bad" role="status">
          <Icon of="warning" /> {t.detail.takenDown(asset.taken_down_reason)}
        </p>
      ) : null}
      {operator && !asset.sidecar ? <Control asset={asset} /> : null}
    </>
  );
}

function Control({ asset }: { asset: AssetOut }) {
  const { t } = useTexts();
  const client = useQueryClient();
  const [reason, setReason] = useState("");
  const change = useMutation({
    mutationFn: () => (asset.taken_down_reason ? putBack(asset.id) : takeDown(asset.id, reason.trim())),
    onError: useTellError(),
    onSuccess: async () => {
      setReason("");
      await client.invalidateQueries({ queryKey: ["assets", "one", asset.id] });
      await refreshAssets(client);
    },
  });
  const send = (event: FormEvent) => {
    event.preventDefault();
    change.mutate();
  };
  return (
    <form onSubmit={send}>
      {asset.taken_down_reason ? (
        <button type="submit" disabled={change.isPending}>
          {t.detail.putBack}
        </button>
      ) : (
        <>
          <ReasonField label={t.detail.takeDownReason} value={reason} onChange={setReason} />
          <button type="submit" className="danger" disabled={change.isPending || !reason.trim()}>
            {t.detail.takeDown}
          </button>
        </>
      )}
    </form>
  );
}
