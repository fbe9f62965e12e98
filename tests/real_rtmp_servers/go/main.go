// An RTMP server of gortmplib, the library of MediaMTX, for one address: `server PORT`. Players get what the publisher of
// their path sends, from the next keyframe on; a second publisher is refused while the first one's connection stands.
package main

import (
	"errors"
	"log"
	"net"
	"os"
	"sync"
	"time"

	"github.com/bluenviron/gortmplib"
	"github.com/bluenviron/gortmplib/pkg/codecs"
	"github.com/bluenviron/mediacommon/v2/pkg/codecs/h264"
)

const silence = 60 * time.Second

type player struct {
	*gortmplib.Writer
	begun bool
}

type stream struct {
	tracks  []*gortmplib.Track
	players map[*player]bool
}

var (
	mutex   sync.Mutex
	streams = map[string]*stream{}
)

func publish(conn net.Conn, sc *gortmplib.ServerConn) error {
	path := sc.URL.Path
	ours := &stream{players: map[*player]bool{}}
	mutex.Lock()
	_, taken := streams[path]
	if !taken {
		streams[path] = ours
	}
	mutex.Unlock()
	if taken {
		return errors.New("another one publishes")
	}
	defer func() {
		mutex.Lock()
		delete(streams, path)
		mutex.Unlock()
	}()
	reader := &gortmplib.Reader{Conn: sc}
	if err := reader.Initialize(); err != nil {
		return err
	}
	// To each player; a keyframe begins it.
	each := func(keyframe bool, write func(*player) error) {
		mutex.Lock()
		defer mutex.Unlock()
		for one := range ours.players {
			if one.begun = one.begun || keyframe; one.begun && write(one) != nil {
				delete(ours.players, one)
			}
		}
	}
	for _, track := range reader.Tracks() {
		switch track.Codec.(type) {
		case *codecs.H264:
			reader.OnDataH264(track, func(pts, dts time.Duration, au [][]byte) {
				each(h264.IsRandomAccess(au), func(one *player) error { return one.WriteH264(track, pts, dts, au) })
			})
		case *codecs.MPEG4Audio:
			reader.OnDataMPEG4Audio(track, func(pts time.Duration, au []byte) {
				each(false, func(one *player) error { return one.WriteMPEG4Audio(track, pts, au) })
			})
		}
	}
	mutex.Lock()
	ours.tracks = reader.Tracks()
	mutex.Unlock()
	for {
		conn.SetReadDeadline(time.Now().Add(silence))
		if err := reader.Read(); err != nil {
			return err
		}
	}
}

func play(conn net.Conn, sc *gortmplib.ServerConn) error {
	mutex.Lock()
	from := streams[sc.URL.Path]
	// The library looks at a publish for two seconds before it names the tracks.
	for until := time.Now().Add(10 * time.Second); from == nil || from.tracks == nil; from = streams[sc.URL.Path] {
		mutex.Unlock()
		if time.Now().After(until) {
			return errors.New("there is no such stream")
		}
		time.Sleep(50 * time.Millisecond)
		mutex.Lock()
	}
	one := &player{Writer: &gortmplib.Writer{Conn: sc, Tracks: from.tracks}}
	err := one.Initialize()
	from.players[one] = true
	mutex.Unlock()
	conn.SetReadDeadline(time.Time{})
	for buffer := make([]byte, 1024); err == nil; {
		_, err = conn.Read(buffer)
	}
	return err
}

func serve(conn net.Conn) error {
	defer conn.Close()
	conn.SetReadDeadline(time.Now().Add(silence))
	sc := &gortmplib.ServerConn{RW: conn}
	if err := sc.Initialize(); err != nil {
		return err
	}
	if err := sc.AcceptConn(); err != nil {
		return err
	}
	if sc.Publish {
		return publish(conn, sc)
	}
	return play(conn, sc)
}

func main() {
	listener, err := net.Listen("tcp", "127.0.0.1:"+os.Args[1])
	if err != nil {
		log.Fatal(err)
	}
	for {
		conn, err := listener.Accept()
		if err != nil {
			log.Fatal(err)
		}
		go func() { log.Printf("%v: %v", conn.RemoteAddr(), serve(conn)) }()
	}
}
