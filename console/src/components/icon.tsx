/** Small drawings, 24 by 24, in the colour of the text around them. Never alone: a word or a label says the same. */
const DRAWINGS = {
  vrm: "M12 12a4.2 4.2 0 1 0 0-8.4 4.2 4.2 0 0 0 0 8.4ZM4 20.5c.7-4 4-6.200 8-6.200s7.300 2.200 8 6.200",
  animation: "M3.500 17.500c4.500 0 4-11 8.500-11s4 11 8.500 11M3.500 20v-5M12 9V4M20.500 20v-5",
  bgm: "M9 18V6.500L20 4v11.500M9 18a2.700 2.700 0 1 1-5.400 0 2.700 2.700 0 0 1 5.400 0ZM20 15.500a2.700 2.700 0 1 1-5.400 0 2.700 2.700 0 0 1 5.400 0Z",
  hdr: "M12 16a4 4 0 1 0 0-8 4 4 0 0 0 0 8ZM12 2.500v2M12 19.500v2M2.500 12h2M19.500 12h2M5.300 5.300l1.400 1.400M17.300 17.300l1.400 1.400M5.300 18.700l1.400-1.400M17.300 6.700l1.400-1.400",
  scene: "M12 3l8 4.500v9L12 21l-8-4.500v-9L12 3ZM4 7.500l8 4.500 8-4.500M12 12v9",
  lock: "M6 11h12v9H6zM8.500 11V8a3.500 3.500 0 0 1 7 0v3",
  warning: "M12 4.500 21 20H3L12 4.500ZM12 10v4.500M12 17.300v.2",
  upload: "M12 16V4.500M7 9l5-5 5 5M4.500 16v3.500h15V16",
  filter: "M4 7h10M18 7h2M4 17h2M10 17h10M16 5v4M8 15v4",
  play: "M7 4.500 19 12 7 19.500Z",
  pause: "M8 5v14M16 5v14",
  close: "M6 6l12 12M18 6 6 18",
} as const;

export type Drawing = keyof typeof DRAWINGS;

export function Icon({ of, size = 18 }: { of: Drawing; size?: number }) {
  return (
    <svg
      aria-hidden="true"
      width={size}
      height={size}
      viewBox="0 0 24 24"
      fill={of === "play" ? "currentColor" : "none"}
      stroke="currentColor"
      strokeWidth="1.75"
      strokeLinecap="round"
      strokeLinejoin="round"
    >
      <path d={DRAWINGS[of]} />
    </svg>
  );
}
