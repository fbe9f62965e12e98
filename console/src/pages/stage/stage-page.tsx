/** The stage: what goes out, where to, and what is true about it. */
import { useQuery, useQueryClient } from "@tanstack/react-query";
import { useNavigate, useSearch } from "@tanstack/react-router";
import { useEffect, useState } from "react";

import { listRooms, makeRoom } from "../../api/live";
import { useSession } from "../../api/session";
import { Select } from "../../components/field";
import { useTellError } from "../../components/toasts";
import { useTexts } from "../../i18n";
import { useShow } from "../../live/use-show";
import { SignedOut } from "../../shell/shell";
import { Destinations } from "./destinations";
import { Outgoing } from "./outgoing";
import { ShowPanel } from "./show-panel";

const NEW = "+";

export function StagePage() {
  const { t } = useTexts();
  const session = useSession();
  const client = useQueryClient();
  const tellError = useTellError();
  const navigate = useNavigate({ from: "/stage" });
  const asked = useSearch({ from: "/stage" }).room;
  const signedIn = Boolean(session.data?.userId);
  const rooms = useQuery({ queryKey: ["rooms"], queryFn: ({ signal }) => listRooms(signal), enabled: signedIn });
  const room = asked ?? rooms.data?.data[0]?.room_id ?? null;
  const show = useShow(signedIn ? room : null);
  const [chosen, setChosen] = useState<string[] | null>(null);
  /** Raised by "go live": whoever publishes begins, should it not have. */
  const [publish, setPublish] = useState(0);

  useEffect(() => {
    document.title = `${t.pages.stage} · ${t.brand}`;
  }, [t]);

  const make = async () => {
    try {
      const made = await makeRoom();
      await client.invalidateQueries({ queryKey: ["rooms"] });
      await navigate({ search: { room: made.room_id } });
    } catch (error) {
      tellError(error);
    }
  };

  if (session.data && !signedIn) return <SignedOut />;
  const listed = rooms.data?.data ?? [];
  return (
    <div className="stage">
      <div className="page-head">
        <h1>{t.pages.stage}</h1>
        {listed.length ? (
          <Select
            label={t.stage.room}
            value={room ?? ""}
            options={[
              ...(room && !listed.some((one) => one.room_id === room) ? [[room, room] as const] : []),
              ...listed.map((one) => [one.room_id, one.room_id] as const),
              [NEW, `＋ ${t.stage.newRoom}`],
            ]}
            onChange={(value) => void (value === NEW ? make() : navigate({ search: { room: value } }))}
          />
        ) : rooms.isSuccess && !room ? (
          <button type="button" className="primary" onClick={() => void make()}>
            {t.stage.makeRoom}
          </button>
        ) : null}
        {room ? (
          <a href={`/watch/${encodeURIComponent(room)}`} target="_blank" rel="noreferrer">
            {t.stage.watchLink}
          </a>
        ) : null}
      </div>
      {rooms.isError ? <p role="alert">{rooms.error.message}</p> : null}
      {room ? (
        <div className="stage-columns">
          <Outgoing key={room} room={room} publish={publish} onAir={Boolean(show.status && isOnAir(show.status.status))} />
          <div className="stage-side">
            <ShowPanel room={room} show={show} chosen={chosen} onStart={() => setPublish((count) => count + 1)} />
            <Destinations chosen={chosen} onChoose={setChosen} busy={Boolean(show.status && isOnAir(show.status.status))} />
          </div>
        </div>
      ) : null}
    </div>
  );
}

export function isOnAir(status: string): boolean {
  return ["starting", "live", "degraded", "stopping", "interrupted"].includes(status);
}
