/** Something that an operator does: what it concerns is asked for again, and what goes wrong is told. */
import { useQueryClient } from "@tanstack/react-query";
import { useCallback, useState } from "react";

import { useTellError, useToast } from "../../components/toasts";
import { KEY } from "./listed";

export function useAct() {
  const client = useQueryClient();
  const tell = useToast();
  const tellError = useTellError();
  const [busy, setBusy] = useState(false);
  const act = useCallback(
    async (work: () => Promise<unknown>, done?: string) => {
      setBusy(true);
      try {
        await work();
        if (done) tell(done);
      } catch (error) {
        tellError(error);
      } finally {
        await client.invalidateQueries({ queryKey: [KEY] });
        setBusy(false);
      }
    },
    [client, tell, tellError],
  );
  return { act, busy };
}
