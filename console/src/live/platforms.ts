/** Where one can go live, by the names that people know. */
import type { DestinationIn } from "../api/live";

export type Platform = DestinationIn["platform"];

export const PLATFORMS: readonly (readonly [Platform, string])[] = [
  ["youtube", "YouTube"],
  ["twitch", "Twitch"],
  ["custom", "RTMP"],
];

export const platformName = (platform: string) => PLATFORMS.find(([one]) => one === platform)?.[1] ?? platform;
