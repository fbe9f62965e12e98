/** The stage: what goes out, where to, and what is true about it. */
import { useQuery, useQueryClient } from "@tanstack/react-query";
import { useBlocker, useNavigate, useSearch } from "@tanstack/react-router";
import { useCallback, useEffect, useMemo, useRef, useState } from "react";

import { addOutputs, isOnAir, isUp, listRooms, makeRoom, stopOutput, waysInto, type RoomListed } from "../../api/live";
import { useSession } from "../../api/session";
import { Confirm } from "../../components/dialog";
import { Select } from "../../components/field";
import { useTellError } from "../../components/toasts";
import { useTexts } from "../../i18n";
import { useChoice } from "../../live/choice";
import { useOutgoing } from "../../live/use-outgoing";
import { useShow } from "../../live/use-show";
import { SignedOut } from "../../shell/shell";
import { Destinations, idsOf, useDestinations } from "./destinations";
import { useAssets } from "./picker";
import { Choices, Preview } from "./picture";
import { ShowPanel } from "./show-panel";
import css from "./stage-page.module.css";
import { problemText } from "../../i18n/problems";

const NEW = "+";

export function StagePage() {
  const { t } = useTexts();
  const session = useSession();
  const client = useQueryClient();
  const navigate = useNavigate({ from: "/stage" });
  const asked = useSearch({ from: "/stage" }).room;
  const signedIn = Boolean(session.data?.user_id);
  const rooms = useQuery({ queryKey: ["rooms"], queryFn: ({ signal }) => listRooms(signal), enabled: signedIn });
  const listed = rooms.data?.data;
  const room = asked ?? listed?.[0]?.room_id ?? null;
  const [failed, setFailed] = useState<unknown>(null);

  useEffect(() => {
    // The studio's own title says more.
    if (!room) document.title = `${t.pages.stage} · ${t.brand}`;
  }, [t, room]);

  const make = useCallback(async () => {
    setFailed(null);
    try {
      const made = await makeRoom();
      await client.invalidateQueries({ queryKey: ["rooms"] });
      await navigate({ search: { room: made.room_id }, replace: true });
    } catch (error) {
      setFailed(error);
    }
  }, [client, navigate]);
  // Whoever is here for the first time gets a room without being asked for one.
  const newcomer = listed !== undefined && room === null;
  const made = useRef(false);
  useEffect(() => {
    if (!newcomer || made.current) return;
    made.current = true;
    void make();
  }, [newcomer, make]);

  if (session.data && !signedIn) return <SignedOut />;
  return (
    <div className={css.stage}>
      <div className="page-head">
        <h1>{t.pages.stage}</h1>
        {listed?.length ? (
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
        ) : null}
        {room ? (
          <a href={`/watch/${encodeURIComponent(room)}`} target="_blank" rel="noreferrer">
            {t.stage.watchLink}
          </a>
        ) : null}
      </div>
      {rooms.isError ? (
        <p className="notice bad" role="alert">
          {problemText(rooms.error, t)}
        </p>
      ) : null}
      {failed ? (
        <section className="panel" role="alert">
          <h2>{t.stage.noRoom}</h2>
          <p>{problemText(failed, t)}</p>
          <div className="row">
            <button type="button" onClick={() => void make()}>
              {t.stage.tryAgain}
            </button>
          </div>
        </section>
      ) : null}
      {room ? (
        <Studio key={room} room={room} listed={listed} />
      ) : !failed && !rooms.isError ? (
        <p className="dim">{t.loading}</p>
      ) : null}
    </div>
  );
}

function Studio({ room, listed }: { room: string; listed: RoomListed[] | undefined }) {
  const { t } = useTexts();
  const tellError = useTellError();
  const show = useShow(room);
  const { status, take } = show;
  const onAir = isOnAir(status);
  const [choice, change] = useChoice(room);
  const newest = useAssets("vrm", "", choice.avatar === null);
  const first = newest.data?.items[0];
  const avatar = useMemo(
    () => choice.avatar ?? (first ? { url: first.url, name: first.name, thumbnail: first.thumbnail } : null),
    [choice.avatar, first],
  );
  const canvas = useRef<HTMLCanvasElement>(null);
  const outgoing = useOutgoing(canvas, room, choice, avatar?.url ?? null, onAir);
  // Who is on stage stays who is there, whatever is uploaded later.
  const { connection } = outgoing;
  useEffect(() => {
    if (connection === "on" && choice.avatar === null && avatar) change({ avatar });
  }, [connection, choice.avatar, avatar, change]);
  const saved = useDestinations();
  const destinations = idsOf(saved.data?.data, choice.destinations);

  useEffect(() => {
    document.title = `${onAir ? `● ${t.live[status.status]} · ` : ""}${t.pages.stage} · ${t.brand}`;
  }, [t, onAir, status?.status]);

  // A host with OBS sends by that, and one participant of a name is let in: this page must not take its place.
  const host = listed?.find((one) => one.room_id === room)?.host_identity ?? null;
  const [program, setProgram] = useState<string | null>(null);
  const stepUnlessAProgramDoes = async () => {
    if (connection !== "off" && connection !== "elsewhere") return;
    const found = await waysInto(room).catch(() => null);
    const sends = found?.data.find((one) => one.identity === host && ["buffering", "publishing"].includes(one.state));
    setProgram(sends ? sends.name || sends.kind.toUpperCase() : null);
    if (!sends) await outgoing.step();
  };

  // Whoever goes to another page takes the picture along.
  const leaving = useBlocker({
    shouldBlockFn: () => onAir && connection !== "off" && connection !== "elsewhere",
    withResolver: true,
    enableBeforeUnload: false,
  });

  // A show keeps the key that an output began with: with another one it has to begin anew.
  /** The destination whose key is being typed. */
  const [changing, setChanging] = useState<string | null>(null);
  /** Destinations that are added again as soon as their output has ended. */
  const renewing = useRef(new Set<string>());
  const session = status?.session_id ?? null;
  const add = useCallback(
    async (id: string) => {
      if (session) take(await addOutputs(session, [id]));
    },
    [session, take],
  );
  useEffect(() => {
    for (const id of renewing.current) {
      if (status?.outputs.some((output) => output.destination_id === id && output.state !== "ended")) continue;
      renewing.current.delete(id);
      if (onAir) void add(id).catch(tellError);
    }
  }, [status, onAir, add, tellError]);
  const keyChanged = (id: string) => {
    const unwell = status?.outputs.find(
      (output) => output.destination_id === id && isUp(output) && output.state !== "live",
    );
    if (!onAir || !unwell) return;
    // Before it is asked to end: the news of its end may come before the answer.
    renewing.current.add(id);
    void stopOutput(unwell.id)
      .then(take)
      .catch((error) => {
        renewing.current.delete(id);
        tellError(error);
      });
  };

  return (
    <div className={css.columns}>
      <Preview
        canvas={canvas}
        outgoing={outgoing}
        noAvatar={newest.isSuccess && avatar === null}
        light={choice.light}
        program={connection === "on" ? null : program}
      />
      <div className={css.side}>
        <ShowPanel
          room={room}
          show={show}
          host={listed?.find((one) => one.room_id === room)?.host_identity ?? null}
          destinations={destinations}
          preset={choice.preset}
          onStart={() => void stepUnlessAProgramDoes()}
          onNewKey={setChanging}
        />
        <Destinations
          chosen={choice.destinations}
          onChoose={(ids) => change({ destinations: ids })}
          shown={onAir ? status.outputs.filter(isUp).flatMap((output) => output.destination_id ?? []) : null}
          onAdd={add}
          changing={changing}
          onChanging={setChanging}
          onKeyChanged={keyChanged}
        />
      </div>
      <Choices choice={choice} change={change} avatar={avatar} outgoing={outgoing} onAir={onAir} />
      {leaving.status === "blocked" ? (
        <Confirm title={t.stage.leaveAsk} action={t.stage.leaveAnyway} onNo={leaving.reset} onYes={leaving.proceed} />
      ) : null}
    </div>
  );
}
