package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"fingerpost"
	"fingerpost/store"

	"github.com/spf13/cobra"
)

// storeFlags name a store that no node has to be running for.
type storeFlags struct{ data, store string }

func (f *storeFlags) register(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.data, "data", "", "data `DIR` of the node, for the store in it")
	cmd.Flags().StringVar(&f.store, "store", "", "`DSN` of another store: sqlite:DIR or postgres://…")
}

// open opens the store; one that has to be there already is neither made nor migrated.
func (f *storeFlags) open(ctx context.Context, existing bool) (*store.DB, error) {
	dsn := f.store
	switch {
	case dsn == "" && f.data == "":
		return nil, usage(errors.New("which store? --data DIR or --store DSN"))
	case dsn == "":
		dsn = "sqlite:" + f.data
	}
	db, err := store.Open(ctx, dsn, store.Options{Existing: existing})
	if errors.Is(err, store.ErrNotFound) {
		place, _ := strings.CutPrefix(dsn, "sqlite:")
		err = &fingerpost.Error{Code: "no_store", Message: "there is no store in " + place, Hint: "--data is the folder that fingerpost serve --data was given"}
	}
	return db, err
}

func backupCommand() *cobra.Command {
	var flags storeFlags
	cmd := &cobra.Command{
		Use:   "backup FILE",
		Short: "Write all that a store holds to one file",
		Long: `Write all that a store holds to one file, as it is at one instant, while nodes go on
using it. The file can be restored into SQLite and into PostgreSQL, whichever it
came from. It holds what people may not see, such as hashes of passwords: keep it
as safe as the store.`,
		Example: `  fingerpost backup --data /var/lib/fingerpost all.backup
  fingerpost restore --store postgres://fingerpost@db.example.com/fingerpost all.backup`,
		Args: exactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
			defer stop()
			db, err := flags.open(ctx, true)
			if err != nil {
				return err
			}
			defer db.Close()
			var head store.Head
			bar := showProgress("backup", 0, unitBytes)
			err = writeWhole(args[0], func(w io.Writer) (err error) {
				head, err = db.Backup(ctx, countedWriter{w, bar})
				return err
			})
			bar.end()
			if err = ownFile(args[0], err); err != nil {
				return fmt.Errorf("backup: %w", err)
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s: revision %d\n", args[0], head.Rev)
			return err
		},
	}
	flags.register(cmd)
	return cmd
}

func restoreCommand() *cobra.Command {
	var flags storeFlags
	cmd := &cobra.Command{
		Use:   "restore FILE",
		Short: "Fill an empty store from a backup",
		Long: `Fill an empty store from a backup. Nodes that followed the store before fetch its
content anew.`,
		Args: exactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
			defer stop()
			f, err := os.Open(args[0])
			if err != nil {
				return fileError(args[0], "read", err)
			}
			defer f.Close()
			size := int64(0)
			if info, err := f.Stat(); err == nil && info.Mode().IsRegular() {
				size = info.Size()
			}
			db, err := flags.open(ctx, false)
			if err != nil {
				return err
			}
			defer db.Close()
			bar := showProgress("restore", size, unitBytes)
			head, err := db.ReadBackup(ctx, counted{f, bar})
			bar.end()
			if err != nil {
				return fmt.Errorf("restore %s: %w", args[0], err)
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "restored revision %d\n", head.Rev)
			return err
		},
	}
	flags.register(cmd)
	return cmd
}

// writeWhole writes a file that only its owner may read, whole or not at all.
func writeWhole(name string, write func(io.Writer) error) error {
	tmp, err := os.CreateTemp(filepath.Dir(name), "."+filepath.Base(name)+".*")
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name())
	err = write(tmp)
	if err == nil {
		err = tmp.Sync()
	}
	if err = errors.Join(err, tmp.Close()); err != nil {
		return err
	}
	if err := os.Rename(tmp.Name(), name); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(name)) // so that the name is on disk, too
	if err != nil {
		return err
	}
	defer dir.Close()
	return dir.Sync()
}

func newEpochCommand() *cobra.Command {
	var flags storeFlags
	cmd := &cobra.Command{
		Use:   "new-epoch",
		Short: "Tell a store that its database was set back",
		Long: `Tell a store that its database was set back by other means than restore: a copied
file, a server restored to a point in time. All nodes fetch its content anew. A node
that comes with a revision which the store does not have makes the store find out by
itself; with this command no node serves for a while what was undone.`,
		Args: exactArgs(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			db, err := flags.open(cmd.Context(), true)
			if err != nil {
				return err
			}
			defer db.Close()
			epoch, err := db.NewEpoch(cmd.Context())
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "the epoch is %s\n", epoch)
			return err
		},
	}
	flags.register(cmd)
	return cmd
}
