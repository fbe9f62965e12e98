/** A room as its viewers see it. */
import { useParams } from "@tanstack/react-router";

import { useTexts } from "../../i18n";

export function WatchPage() {
  const { t } = useTexts();
  const { room } = useParams({ from: "/watch/$room" });
  return <h1>{t.watch.title(room)}</h1>;
}
